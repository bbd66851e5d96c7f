"""Flax's training and generation compiled for cards that are not there; the numbers need a GPU.

`make gpu-proof` runs them, in an environment with jax's CUDA plugin: pip install -e ".[cuda]".
"""

import json
import math
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from benchmarks.roofline import GROUPS, group_of
from benchmarks.spec import Spec
from benchmarks.workers import flax_operations, jax_tools
from benchmarks.workers.compiled import Product, Program, compile_for, matmul_precision, parameters
from benchmarks.workers.compiled import compiled_step as compile_step
from gpt_common.completion import CHUNK
from gpt_common.config import PRESETS, SamplingOptions
from gpt_common.hardware import Processor
from gpt_flax import train
from gpt_flax.cache import empty_cache
from gpt_flax.fast import GPU_LOSS_ROWS, choose_fast_ops, create_model
from gpt_flax.generate import DecodeState, choose_decode, prefill_step
from gpt_flax.inference import prepare_for_inference
from gpt_flax.model import GPT
from gpt_flax.precision import DTYPES

pytestmark = [
    pytest.mark.compile_gpu,
    pytest.mark.skipif(
        "cuda" not in os.environ.get("JAX_PLATFORMS", ""), reason="make gpu-proof runs these"
    ),
]

CARDS = ("h100", "a100")
LAYERS = int(
    os.environ.get("GPU_PROOF_LAYERS", "2")
)  # of GPT-2's twelve; `make gpu-proof` takes all
PEAKS_FILE = Path(__file__).parent / "peaks.json"
PEAKS = json.loads(PEAKS_FILE.read_text())  # bytes
PEAK_CASES = [("h100", dtype, B) for dtype in ("bfloat16", "float32") for B in (16, 32, 64)] + [
    ("a100", "bfloat16", 16)
]
SHAPE = replace(PRESETS["gpt2"], n_layer=LAYERS)
PRECISION = {"float32": "highest", "tf32": "high", "bfloat16": "highest"}  # as XLA's text has it


@pytest.fixture(autouse=True)
def _only_with_the_plugin():
    pytest.importorskip("jax_cuda13_plugin", reason='needs pip install -e ".[cuda]"')


@cache
def compiled_step(
    card: str, dtype: str, B: int, T: int = 1024, A: int = 1, cudnn: bool = True
) -> Program:
    """The training step, as the trainer compiles it on that card."""
    ops = choose_fast_ops("gpu", dtype, Processor(), cudnn)
    return compile_step(card, SHAPE, ops, dtype, (A, B, T))


def compiled_eval(card: str, dtype: str) -> Program:
    """The loss of a batch, as an evaluation compiles it."""
    model = create_model(SHAPE, choose_fast_ops("gpu", dtype, Processor()), dtype)
    tokens = jax.ShapeDtypeStruct((4, 1024), jnp.int32)
    with matmul_precision(dtype):
        inputs = parameters(SHAPE), tokens, tokens
        return compile_for(card, train.eval_step, *inputs, model=model, dtype=dtype)


def compiled_prefill(card: str, dtype: str, rows: int) -> Program:
    """The pass over prompts of up to 128 tokens, as `generate` compiles it."""
    params, model = prepared(dtype)
    sampling = SamplingOptions(seed=0)
    static = {"model": model, "length": 192, "sampling": sampling, "dtype": dtype}
    gpu = mock.patch.object(jax, "default_backend", return_value="gpu")  # sets the cache's dtype
    with gpu, jax.enable_x64(True), matmul_precision(dtype):
        lengths = jax.ShapeDtypeStruct((rows,), jnp.int32)
        uniform = jax.ShapeDtypeStruct((rows,), jnp.float64)
        inputs = params, jax.ShapeDtypeStruct((rows, 128), jnp.int32), lengths, None, uniform
        return compile_for(card, prefill_step, *inputs, **static)


@cache
def compiled_decode(card: str, dtype: str, rows: int) -> Program:
    """The loop from one token to the next, as `generate` compiles it on that card."""
    params, model = prepared(dtype)
    compute = DTYPES[dtype]
    with jax.enable_x64(True), matmul_precision(dtype):
        cache = jax.eval_shape(lambda: empty_cache(SHAPE, rows, 192, compute))
        i64 = jax.ShapeDtypeStruct((rows, 1), jnp.int64)
        state = DecodeState(i64, i64, None, cache)
        uniforms = jax.ShapeDtypeStruct((rows, CHUNK), jnp.float64)
        static = {"model": model, "sampling": SamplingOptions(seed=0), "dtype": dtype}
        decode = choose_decode("gpu", rows, model, dtype)
        return compile_for(card, decode, params, state, CHUNK, uniforms, **static)


def prepared(dtype):
    """The shapes of the inference weights, and their model."""
    ops, models = choose_fast_ops("gpu", dtype, Processor()), []

    def prepare(params):
        prepared, model = prepare_for_inference(params, GPT(SHAPE), dtype, ops)
        models.append(model)
        return prepared

    return jax.eval_shape(prepare, parameters(SHAPE)), models[0]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "tf32"])
def test_every_product_is_in_the_type_and_precision_that_is_asked_for(card, dtype):
    element = "bf16" if dtype == "bfloat16" else "f32"
    products = compiled_step(card, dtype, 4).products
    assert set(products) == {Product(element, element, PRECISION[dtype])}
    linear, attention, head = 4 * LAYERS, 2 * LAYERS, 1
    assert sum(products.values()) == 3 * (linear + head + (0 if dtype == "bfloat16" else attention))


@pytest.mark.parametrize(("T", "cudnn"), [(255, True), (256, False)])
def test_every_product_is_bfloat16_also_for_odd_lengths_and_without_cudnn(T, cudnn):
    program = compiled_step("h100", "bfloat16", 4, T, cudnn=cudnn)
    assert {(product.left, product.right) for product in program.products} == {("bf16", "bf16")}
    assert program.calls["__cudnn$fmhaSoftmaxBackward"] == (LAYERS if cudnn else 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_evaluation_and_a_prompt_multiply_in_their_dtype(dtype):
    element = "bf16" if dtype == "bfloat16" else "f32"
    for program in (compiled_eval("h100", dtype), compiled_prefill("h100", dtype, 5)):
        found = {(product.left, product.right) for product in program.products}
        assert found == {(element, element)}
        assert all("known_trip_count" in loop for loop in program.loops)


@pytest.mark.parametrize("card", CARDS)
def test_cudnns_attention_runs_forward_and_backward_once_a_layer(card):
    calls = compiled_step(card, "bfloat16", 4).calls
    assert calls["__cudnn$fmhaSoftmax"] == calls["__cudnn$fmhaSoftmaxBackward"] == LAYERS


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_step_reuses_the_memory_of_the_old_state_and_copies_nothing(dtype):
    program = compiled_step("h100", dtype, 4)
    weights = sum(4 * leaf.size for leaf in jax.tree.leaves(parameters(SHAPE)))
    assert program.aliased >= 3 * weights  # and both moments
    assert not [i.name for i in program.instructions if i.opcode == "copy" and "f32" in i.type]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_logits_of_a_batch_are_never_in_memory_as_a_whole(dtype):
    """In a step of 16 sequences of 1,024 tokens."""
    sizes = [math.prod(shape) for shape in compiled_step("h100", dtype, 16).arrays("f32")]
    assert max(sizes) < 16 * 1024 * SHAPE.vocab_size


def test_the_flops_of_a_step_are_those_of_its_products():
    """Three for each matrix, with one addition each; of attention seven, half of them masked."""
    kernels = list(compiled_step("h100", "bfloat16", 16).kernels())
    tokens, T, C = 16 * 1024, 1024, SHAPE.n_embd
    weights = 12 * LAYERS * C**2 + C * SHAPE.padded_vocab_size
    expected = 6 * weights * tokens + 7 * 2 * LAYERS * C * T * tokens / 2
    assert sum(kernel.times * kernel.flops for kernel in kernels) == expected
    assert {group_of(kernel.layer) for kernel in kernels} == set(GROUPS)


def test_a_step_moves_the_bytes_of_its_state_and_of_the_logits():
    """At least: weights and moments in and out, and each logit three times in bfloat16."""
    kernels = compiled_step("h100", "bfloat16", 16).kernels()
    state = 3 * sum(4 * leaf.size for leaf in jax.tree.leaves(parameters(SHAPE)))
    logits = 16 * 1024 * SHAPE.padded_vocab_size
    assert sum(kernel.times * kernel.bytes for kernel in kernels) > 2 * state + 3 * 2 * logits


def compiled_operation(name: str, kind: str, dtype: str, monkeypatch) -> Program:
    """An operation of `benchmarks.operations` on a GPU, forward and backward, of GPT-2's sizes."""
    monkeypatch.setattr(jax_tools, "_device", SimpleNamespace(platform="gpu"), raising=False)
    spec = Spec(SHAPE, "", "cuda", dtype, batch_size=8, seq_len=1024)
    (operation,) = [each for each in flax_operations.OPERATIONS if each.name == name]
    assert "cuda" in operation.devices
    arguments = jax.eval_shape(lambda: operation.arguments(spec))
    function = getattr(operation, kind)
    call = flax_operations.forward_backward(function)
    gradients = jax.eval_shape(function, *arguments)
    with matmul_precision(dtype):
        return compile_for("h100", call, gradients, *arguments)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["plain", "fast"])
@pytest.mark.parametrize("name", ["attention", "head and loss"])
def test_an_operation_of_the_benchmark_compiles(name, kind, dtype, monkeypatch):
    program = compiled_operation(name, kind, dtype, monkeypatch)
    assert not program.calls["__cudnn$fmhaSoftmax"]
    in_chunks = (name, kind) == ("head and loss", "fast")
    chunks = [8 * 1024 // GPU_LOSS_ROWS] if in_chunks else []
    assert [loop.trip_count for loop in program.loops] == chunks


def test_the_benchmarks_cudnn_attention_is_cudnns(monkeypatch):
    calls = compiled_operation("cuDNN attention", "fast", "bfloat16", monkeypatch).calls
    assert calls["__cudnn$fmhaSoftmax"] == calls["__cudnn$fmhaSoftmaxBackward"] == 1


def peak_name(card: str, dtype: str, B: int) -> str:
    return f"{card} {dtype} {LAYERS} layers B={B} T=1024"


@pytest.mark.parametrize(("card", "dtype", "B"), PEAK_CASES)
def test_peak_memory_is_as_kept(card, dtype, B):
    """In `peaks.json`, within a twentieth; `python -m tests.gpu_proof.report` writes it anew."""
    peak = compiled_step(card, dtype, B).peak
    assert peak == pytest.approx(PEAKS[peak_name(card, dtype, B)], rel=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("rows", [1, 5])
def test_the_host_reads_no_condition_while_tokens_are_made(dtype, rows):
    """Each loop has a trip count that XLA knows."""
    loops = compiled_decode("h100", dtype, rows).loops
    assert loops
    assert all(loop.trip_count for loop in loops)


def test_accumulated_gradients_are_one_loop_whose_length_is_known():
    loops = compiled_step("h100", "bfloat16", 2, 256, A=4).loops
    assert loops
    assert all(loop.trip_count for loop in loops)
