"""The estimated memory of a training step, against what compilers and tensors really need."""

import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import gpt_flax.fast
import gpt_flax.memory
import gpt_torch.fast
import gpt_torch.memory
from gpt_common.config import (
    PRESETS,
    DataOptions,
    GPTConfig,
    OptimizerOptions,
    RuntimeOptions,
    TrainConfig,
)
from gpt_common.estimate import Footprint, Target, estimate_step
from gpt_common.hardware import Processor
from gpt_common.weights import num_parameters
from gpt_flax.model import GPT
from gpt_flax.optimizer import create_optimizer
from gpt_flax.train import TrainState, compile_train_step

TWINS = {
    "torch": ("cuda", gpt_torch.fast, gpt_torch.memory),
    "flax": ("gpu", gpt_flax.fast, gpt_flax.memory),
}
BFLOAT16 = Processor(bfloat16=True)


def options(batch_size, seq_len, dtype="float32", grad_accum=1):
    return TrainConfig(
        data=DataOptions(batch_size=batch_size, seq_len=seq_len),
        optimizer=OptimizerOptions(grad_accum=grad_accum),
        runtime=RuntimeOptions(dtype=dtype),
    )


def gpu_cases():
    """The table of docs/gpu.md: GPT-2 at T=1024 on an H100."""
    rows = re.findall(
        r"^\| (torch|flax) \| (\w+) \| (yes|no) \|(.*)\|$",
        (Path(__file__).parents[1] / "docs" / "gpu.md").read_text(),
        re.MULTILINE,
    )
    for twin, dtype, fast, cells in rows:
        for batch_size, cell in zip((16, 32, 64, 128), cells.split("|"), strict=False):
            yield twin, dtype, fast == "yes", batch_size, float(cell)


# Where XLA recomputes, as memory is short: only the lower bound holds.
RECOMPUTED = {
    ("flax", "bfloat16", False): 64,
    ("flax", "float32", True): 64,
    ("flax", "float32", False): 32,
}


@pytest.mark.parametrize("case", [*gpu_cases()], ids=str)
def test_gpt2_on_an_h100(case):
    twin, dtype, fast, batch_size, measured = case
    kind, fast_ops, memory = TWINS[twin]
    ops = fast_ops.choose_fast_ops(kind, dtype, Processor()) if fast else None
    target = Target(kind, memory.footprint(ops, dtype, kind))
    step = estimate_step(PRESETS["gpt2"], options(batch_size, 1024, dtype), target)
    if batch_size >= RECOMPUTED.get((twin, dtype, fast), 1000):
        assert step.at_least / 1e9 < measured < step.memory / 1e9
    else:
        rel = 0.01 if twin == "torch" else 0.03
        assert step.memory / 1e9 == pytest.approx(measured, rel=rel)
        assert step.at_least < 0.7 * step.memory


@pytest.mark.parametrize(("dtype", "measured"), [("bfloat16", 10.35), ("float32", 32.30)])
def test_three_batches_accumulated_on_an_h100(dtype, measured):
    """Of docs/recipes.md: GPT-2, B=16, T=1024, in Flax."""
    ops = gpt_flax.fast.choose_fast_ops("gpu", dtype, Processor())
    target = Target("gpu", gpt_flax.memory.footprint(ops, dtype, "gpu"))
    step = estimate_step(PRESETS["gpt2"], options(16, 1024, dtype, grad_accum=3), target)
    assert step.memory / 1e9 == pytest.approx(measured, rel=0.04)


def test_the_table_is_whole():
    assert len([*gpu_cases()]) == 2 * 2 * 2 * 4


def compiled_bytes(model, config, ops):
    """What XLA's program for a CPU needs: its arguments, and everything else at once."""
    network = gpt_flax.fast.create_model(model, ops, config.runtime.dtype)
    optimizer = create_optimizer(config.optimizer)
    key, tokens = jax.ShapeDtypeStruct((2,), jnp.uint32), jnp.zeros((1, 8), jnp.int32)
    params = jax.eval_shape(lambda key: GPT(model).init(key, tokens)["params"], key)
    state = TrainState(params, jax.eval_shape(optimizer.init, params))
    data = config.data
    shape = (config.grad_accum, data.batch_size, data.seq_len)
    x, rate = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    static = {"model": network, "optimizer": optimizer, "grad_clip": 1.0}
    jitted = compile_train_step(ops)
    compiled = jitted.lower(state, x, x, rate, **static, dtype=config.runtime.dtype).compile()
    found = compiled.memory_analysis()
    new = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + new


# Model, batch size and length; each is mostly something else.
SHAPES = {
    "activations": (GPTConfig(4, 4, 128, 512, 512), 16, 256),
    "logits": (GPTConfig(2, 4, 128, 256, 20_000), 8, 128),
    "weights": (GPTConfig(2, 4, 256, 256, 20_000), 4, 256),
}


def cases(in_short):
    """All, of which those that the fast tests leave out are marked as slow."""
    short = [(shape, *case) for shape in in_short for case in ((1, "float32"), (3, "bfloat16"))]
    every = itertools.product(SHAPES, (1, 3), ("float32", "bfloat16"))
    return [pytest.param(*c, marks=[] if c in short else pytest.mark.slow) for c in every]


@pytest.mark.parametrize(("shape", "grad_accum", "dtype"), cases(in_short=SHAPES))
def test_what_jax_compiles_for_a_cpu(shape, grad_accum, dtype):
    ops = gpt_flax.fast.choose_fast_ops("cpu", dtype, BFLOAT16)
    assert_estimate_of_a_cpu(shape, grad_accum, dtype, ops)


@pytest.mark.parametrize(("shape", "grad_accum", "dtype"), cases(in_short=["logits"]))
def test_what_jax_compiles_for_a_cpu_without_fast_operations(shape, grad_accum, dtype):
    assert_estimate_of_a_cpu(shape, grad_accum, dtype, None)


def assert_estimate_of_a_cpu(shape, grad_accum, dtype, ops):
    model, batch_size, seq_len = SHAPES[shape]
    config = options(batch_size, seq_len, dtype, grad_accum)
    target = Target("cpu", gpt_flax.memory.footprint(ops, dtype, "cpu"))
    measured = compiled_bytes(model, config, ops)
    assert estimate_step(model, config, target).memory == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("parallel", "mesh", "whole_program", "grad_accum", "copies"),
    [
        ("one device", (1, 1), False, 4, 0),
        ("DDP: one all-reduce a step", (4, 1), False, 4, 2 * 3 / 4),
        ("XLA: one a batch", (4, 1), True, 4, 4 * 2 * 3 / 4),
        ("FSDP: gathered twice a batch, scattered once", (1, 4), False, 4, (2 * 4 + 1) * 3 / 4),
        ("XLA: gathered once, scattered each batch", (1, 4), True, 4, (1 + 4) * 3 / 4),
        ("both: an all-reduce of the parts, too", (2, 4), False, 1, 3 * 3 / 4 + 2 / 2 / 4),
    ],
)
def test_what_a_device_sends(parallel, mesh, whole_program, grad_accum, copies):
    model = GPTConfig(2, 2, 8, 64, 64)
    target = Target("cuda", Footprint(whole_program=whole_program), mesh)
    step = estimate_step(model, options(8, 64, grad_accum=grad_accum), target)
    assert step.sent == pytest.approx(copies * 4 * num_parameters(model)), parallel


def test_weights_in_bfloat16_have_copies_in_xlas_loop_on_a_cpu():
    """Each as it is and transposed; without a loop only those of the head are there at the peak."""
    model = GPTConfig(2, 4, 128, 256, 64)
    ops = gpt_flax.fast.choose_fast_ops("cpu", "bfloat16", BFLOAT16)
    target = Target("cpu", gpt_flax.memory.footprint(ops, "bfloat16", "cpu"))
    one, three = (
        estimate_step(model, options(8, 256, "bfloat16", count), target) for count in (1, 3)
    )
    weights, head = num_parameters(model), 64 * 128
    blocks = weights - head - 256 * 128 - 2 * 128
    assert one.parameters == 4 * weights + 2 * 2 * head
    assert three.parameters == one.parameters + 2 * 2 * blocks


def test_what_waits_for_the_gradients_of_weights():
    """Of all blocks but the one in whose attention the peak is, of which the scores count."""
    model, tokens = GPTConfig(5, 2, 8, 64, 64), 8 * 64
    footprint = Footprint(channel=1, backward_channel=2, block_scores=(3, 0), block_rows=16)
    step = estimate_step(model, options(8, 64), Target("cpu", footprint))
    head, scores = 4 * 64 * 8, 3 * 2 * 16
    assert step.activations == tokens * (8 * (5 * 1 + 4 * 2) + scores) - 2 * head
    assert (step.gradients, step.logits) == (0, 3 * head)


def test_devices_share_the_batch_and_along_fsdp_the_state():
    model, config = PRESETS["gpt2"], options(64, 1024)
    kept = gpt_torch.memory.footprint(None, "float32", "cuda")
    one, ddp, fsdp = (
        estimate_step(model, config, Target("cuda", kept, mesh))
        for mesh in ((1, 1), (8, 1), (1, 8))
    )
    assert ddp.activations == fsdp.activations == one.activations / 8
    assert ddp.logits == fsdp.logits == one.logits / 8
    assert (ddp.parameters, ddp.moments) == (one.parameters, one.moments)
    assert fsdp.moments == one.moments / 8
    assert one.parameters / 8 < fsdp.parameters < one.parameters


def test_gradients_that_are_accumulated_are_whole_on_each_device():
    model, kept = PRESETS["gpt2"], Footprint()
    sizes = [
        estimate_step(model, options(8, 64, grad_accum=count), Target("cuda", kept, (1, 8)))
        for count in (1, 2)
    ]
    assert sizes[1].gradients == 8 * sizes[0].gradients
    assert sizes[1].gradients == sizes[1].moments * 4
