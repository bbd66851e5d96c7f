"""The fake GPU itself: what it notes, and that it leaves nothing behind."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.fake_cuda import fake_cuda

pytestmark = pytest.mark.compile_gpu


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.cpu(),
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: torch.zeros(3).to("cuda"),
        lambda x: torch.zeros(3).to("cuda", non_blocking=True),  # memory is not pinned
        lambda x: x.copy_(torch.zeros(3)),
    ],
)
def test_a_wait_is_noted(recorder, wait):
    wait(torch.zeros(3, device="cuda"))
    assert sum(recorder.waits.values()) == 1


def test_a_copy_from_pinned_memory_does_not_wait(recorder):
    x = torch.zeros(3).pin_memory().to("cuda", non_blocking=True)
    assert (x + 1).is_cuda
    assert not recorder.waits + recorder.mixed


def test_tensors_of_two_devices_are_noted(recorder):
    x = torch.zeros(3, device="cuda")
    x[torch.zeros(2, dtype=torch.int64)]  # allowed, but it uploads the indices
    assert sum(recorder.mixed.values()) == 1
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.zeros(3)


def test_nothing_is_left_behind(guard):
    attention = torch.nn.functional.scaled_dot_product_attention
    with fake_cuda(guard):
        torch.zeros(3, device="cuda")[:2]
    assert torch.nn.functional.scaled_dot_product_attention is attention
    with FakeTensorMode(), pytest.raises(RuntimeError, match="not linked with support for cuda"):
        torch.zeros(3, device="cuda")[:2]
