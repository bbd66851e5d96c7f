"""Whole training steps of gpt_torch over fake CUDA tensors, backward and update included.

They need a library that is loaded before torch: `make gpu-proof`, or `tests/test_gpu_proof.py`.
"""

from dataclasses import replace

import pytest
import torch

from benchmarks.fake_cuda import PeakMemory, is_preloaded
from gpt_common.config import PRESETS, OptimizerOptions
from gpt_common.hardware import Processor
from gpt_torch import train
from gpt_torch.fast import choose_fast_ops, create_model
from gpt_torch.loss_scale import create_scaler
from gpt_torch.optimizer import create_optimizer
from tests.gpu_proof.test_torch import CONFIG, CUDA, TOKENS

pytestmark = [
    pytest.mark.compile_gpu,
    pytest.mark.skipif(not is_preloaded(), reason="make gpu-proof runs these"),
]


def create_state(config, dtype, fast=True):
    ops = choose_fast_ops("cuda", dtype, Processor()) if fast else None
    with CUDA:
        model = create_model(config, ops)
    optimizer = create_optimizer(model, OptimizerOptions())
    return train.TrainState(model, optimizer, create_scaler(dtype, None, CUDA))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_step_does_not_wait_and_multiplies_in_its_dtype(recorder, dtype, fast):
    """From the upload of the batch to the copies of loss and norm, with accumulated gradients."""
    state = create_state(CONFIG, dtype, fast)
    x = train.to_device(TOKENS.reshape(2, 1, 8), CUDA)
    for _ in range(2):
        metrics = train.train_step(state, x, x, 1e-3, 1.0, dtype)
    assert {value.device.type for value in metrics.values()} == {"cuda"}
    assert recorder.products == {getattr(torch, dtype)}
    assert not recorder.waits + recorder.mixed


@pytest.mark.parametrize(("dtype", "kernel"), [("bfloat16", "cudnn"), ("float32", "efficient")])
def test_attention_is_one_kernel_a_layer(recorder, dtype, kernel):
    state, x = create_state(replace(CONFIG, n_layer=3), dtype), train.to_device(TOKENS, CUDA)
    train.train_step(state, x[None], x[None], 1e-3, 1.0, dtype)
    attention = f"aten._scaled_dot_product_{kernel}_attention"
    assert recorder.operations[attention] == recorder.operations[f"{attention}_backward"] == 3


@pytest.mark.parametrize(("fast", "expected"), [(True, 25.5e9), (False, 76.5e9)])
def test_peak_memory_of_gpt2_with_64_sequences(recorder, fast, expected):
    """In bfloat16, T=1024, with the moments; docs/gpu.md has other shapes."""
    with PeakMemory() as memory:
        state = create_state(PRESETS["gpt2"], "bfloat16", fast)
        x = torch.zeros(1, 64, 1024, dtype=torch.int64, device="cuda")
        for _ in range(2):
            train.train_step(state, x, x, 1e-3, 1.0, "bfloat16")
    assert memory.peak == pytest.approx(expected, rel=0.05)
