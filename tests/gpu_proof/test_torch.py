"""gpt_torch on an NVIDIA GPU, as far as a machine without one can tell: devices, types, waits."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.backends.registry import lookup_backend

from benchmarks.fake_cuda import PeakMemory
from gpt_common.completion import add_chunk, start_completions
from gpt_common.config import (
    GPTConfig,
    OptimizerOptions,
    SamplingOptions,
    StoppingOptions,
)
from gpt_common.hardware import Processor
from gpt_torch import train
from gpt_torch.fast import FastOps, choose_fast_ops, chunked_cross_entropy, create_model
from gpt_torch.generate import generate, generate_stream, prefill, rewind
from gpt_torch.inference import prepare_for_inference
from gpt_torch.loss_scale import create_scaler, scale_loss
from gpt_torch.optimizer import clip_and_update, create_optimizer

pytestmark = pytest.mark.compile_gpu

CONFIG = GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=128, vocab_size=97)
CUDA = torch.device("cuda")
TOKENS = np.arange(16, dtype=np.int32).reshape(2, 8)
STOPPING = StoppingOptions(max_new_tokens=6, ignore_end=True)
SAMPLING = {
    "temperature": {"top_k": 0, "temperature": 0.7},
    "greedy": {"temperature": 0.0},
    "top_k": {"top_k": 5},
    "top_k of all": {"top_k": 97},
    "top_p": {"top_k": 0, "top_p": 0.9},
    "min_p": {"top_k": 0, "min_p": 0.01},
    "repetition_penalty": {"repetition_penalty": 1.3},
}


class Batches:
    """A loader of one batch."""

    def restore(self, state):
        pass

    def next_batch(self):
        return TOKENS, TOKENS


def model_on_cuda(dtype, fast=True):
    with CUDA:
        return create_model(CONFIG, choose_fast_ops("cuda", dtype, Processor()) if fast else None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("fast", [True, False])
def test_the_loss(recorder, dtype, fast):
    model, x = model_on_cuda(dtype, fast), train.to_device(TOKENS, CUDA)
    loss = train.loss_fn(model, x, x, dtype)
    assert loss.is_cuda
    assert loss.dtype == torch.float32
    assert recorder.products == {getattr(torch, dtype)}
    assert not recorder.waits + recorder.mixed


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_needs_memory_for_some_rows_at_a_time(recorder, dtype, fast):
    """Of GPT-2 with 64 x 1024 tokens, whose logits are 13 GB in float32."""
    config = replace(CONFIG, vocab_size=50257, n_embd=768)
    with CUDA:
        model = create_model(config, choose_fast_ops("cuda", dtype, Processor()) if fast else None)
        hidden = torch.empty(64, 1024, 768)
        targets = torch.zeros(64, 1024, dtype=torch.int64)
    model.hidden = lambda tokens: hidden
    with PeakMemory() as memory:
        train.loss_fn(model, targets, targets, dtype)
    assert (memory.peak < 4e9) == fast, memory.peak


def test_the_loss_launches_few_kernels(recorder):
    """One softmax for each chunk of rows, and not for each block that fits a CPU's cache."""
    with CUDA:
        x, weight = torch.empty(1, 5000, 32), torch.empty(128, 32)
        targets = torch.zeros(1, 5000, dtype=torch.int64)
    ops = choose_fast_ops("cuda", "bfloat16", Processor())
    chunked_cross_entropy(x, weight, targets, 97, ops)
    assert recorder.operations["aten.amax"] == 2


def test_an_evaluation_waits_once(recorder):
    model = model_on_cuda("bfloat16")
    train.evaluate(model, Batches(), 3, "bfloat16", CUDA)
    assert [*recorder.waits.values()] == [1], recorder.waits
    assert not recorder.mixed


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_update(recorder, dtype):
    model = model_on_cuda(dtype)
    optimizer, scaler = (
        create_optimizer(model, OptimizerOptions()),
        create_scaler(dtype, None, CUDA),
    )
    scale_loss(torch.ones((), device=CUDA), scaler)  # creates the scale there
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        norm = clip_and_update(model, optimizer, scaler, 1e-3, 1.0)
    assert norm.is_cuda
    assert {t.device.type for s in optimizer.state.values() for t in s.values()} == {"cuda"}
    assert not recorder.waits + recorder.mixed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("options", SAMPLING.values(), ids=SAMPLING)
def test_a_chunk_of_tokens_waits_once(recorder, options, dtype):
    model, sampling = prepare_for_inference(model_on_cuda(dtype), dtype), SamplingOptions(**options)
    rows = start_completions([[1, 2, 3], [4]], 2, sampling, STOPPING, CONFIG)
    for _ in generate_stream(model, rows, sampling, dtype):
        assert [*recorder.waits.values()] == [1], recorder.waits
        recorder.waits.clear()
    assert [len(row.tokens) for row in rows] == [6] * 4
    assert recorder.products == {getattr(torch, dtype)}
    assert not recorder.mixed


def test_generation_by_the_model_in_training(recorder):
    model = model_on_cuda("bfloat16")
    generate(model, [[1, 2, 3]], stopping=STOPPING, dtype="bfloat16")
    assert sum(recorder.waits.values()) == 3  # chunks of 1, 4 and 1
    assert not recorder.mixed


def test_to_go_back_uploads_and_does_not_wait(recorder):
    sampling = SamplingOptions(repetition_penalty=1.3)
    rows = start_completions([[1, 2, 3], [4]], 1, sampling, STOPPING, CONFIG)
    model, draws = model_on_cuda("float32"), np.zeros((2, 1))
    state, chunk = prefill(model, rows, 64, draws, sampling, "float32")
    add_chunk(rows, chunk)
    recorder.waits.clear()
    state = rewind(state, rows)
    assert {t.device.type for t in (state.tokens, state.positions, state.seen)} == {"cuda"}
    assert not recorder.waits + recorder.mixed


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that torch.compile makes; a graph break is an error."""
    graphs, aot_eager = [], lookup_backend("aot_eager")

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    compile_ = partial(torch.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(torch, "compile", compile_)
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=8):  # torch's default, which is to be raised
        yield graphs
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_compiled_loss_is_one_graph(graphs, dtype):
    """With more than one chunk of rows, the last one shorter."""
    model = create_model(CONFIG, FastOps(loss_rows=6))
    x = train.to_device(TOKENS, torch.device("cpu"))
    eager = loss_and_gradients(model, x, dtype)
    train.compile_train_step(model)
    compiled = loss_and_gradients(model, x, dtype)
    assert len(graphs) == 1
    for expected, got in zip(eager, compiled, strict=True):
        torch.testing.assert_close(got, expected)


def loss_and_gradients(model, x, dtype):
    loss = train.loss_fn(model, x, x, dtype)
    return loss, *torch.autograd.grad(loss, list(model.parameters()))


def test_prompts_of_many_lengths_share_a_compiled_step(graphs):
    """One for each 64 tokens that the cache holds; torch gives up after 8 if it may."""
    config = replace(CONFIG, block_size=640)
    model = prepare_for_inference(create_model(config, None), "float32", compiled=True)
    stopping = StoppingOptions(max_new_tokens=3, ignore_end=True)
    for length in (1, 2, 10, 30, 61):
        generate(model, [[1] * length], stopping=stopping)
    assert len(graphs) == 1
    for length in range(62, 638, 32):
        generate(model, [[1] * length], stopping=stopping)
    assert len(graphs) == 10
