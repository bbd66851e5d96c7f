"""The benchmark of PyTorch's operations on an NVIDIA GPU, as far as fake tensors can tell."""

import pytest
import torch

from benchmarks.spec import Spec
from benchmarks.workers import torch_operations, torch_tools
from gpt_common.config import GPTConfig
from gpt_torch.fast import CUDA_LOSS_ROWS

pytestmark = pytest.mark.compile_gpu

MODEL = GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=4096, vocab_size=50257)
OPERATIONS = [
    operation
    for operation in torch_operations.OPERATIONS
    if operation.training and "cuda" in operation.devices
]


@pytest.fixture
def on_cuda(recorder, monkeypatch):
    monkeypatch.setattr(torch_tools, "_device", torch.device("cuda"))
    return recorder


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("kind", ["plain", "fast"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_operation_runs_on_a_gpu(operation, kind, dtype, on_cuda):
    spec = Spec(MODEL, "", "cuda", dtype, batch_size=2, seq_len=64)
    arguments = operation.arguments(spec)
    torch_operations.passes(getattr(operation, kind), arguments, spec)["forward"]()
    assert on_cuda.products == {getattr(torch, dtype)}
    assert not on_cuda.waits + on_cuda.mixed


def test_the_loss_has_the_rows_of_the_trainers(on_cuda):
    spec = Spec(MODEL, "", "cuda", "bfloat16", batch_size=2, seq_len=CUDA_LOSS_ROWS)
    (loss,) = [operation for operation in OPERATIONS if operation.option == "loss_rows"]
    arguments = loss.arguments(spec)
    on_cuda.operations.clear()
    torch_operations.passes(loss.fast, arguments, spec)
    assert on_cuda.operations["aten.amax"] == 2  # one softmax for each chunk
