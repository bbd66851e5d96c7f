"""Time, peak speeds and peak memory of implementations in torch."""

import re
import time
from collections.abc import Callable
from itertools import pairwise
from typing import SupportsFloat

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import seconds_per_call
from benchmarks.workers.session import peak_rss
from gpt_common.config import Device, Dtype
from gpt_torch import device as twin

DTYPES = {"bfloat16": torch.bfloat16, "float64": torch.float64}
ATTENTION = re.compile("_scaled_dot_product_|flash|fmha|sdpa")
_device = torch.device("cpu")


def select_device(name: Device, dtype: Dtype) -> torch.device:
    """Select the device as `gpt_torch` does, for this and the other functions; return it."""
    global _device
    _device = twin.select_device(name, dtype)
    return _device


def device_name() -> str:
    """Return the type of the device."""
    return _device.type


def time_steps(step: Callable[[], SupportsFloat], count: int) -> tuple[list[float], float]:
    """Return the seconds of each step and the last loss.

    As in the trainer, a step's loss is read after the next step has been dispatched.
    """
    losses, marks = [], [_timestamp()]
    for _ in range(count):
        losses.append(step())
        marks.append(_timestamp())
        if len(losses) > 1:
            float(losses[-2])
    loss = float(losses[-1])
    synchronize()
    return [_elapsed_seconds(*pair) for pair in pairwise(marks)], loss


def _timestamp() -> torch.cuda.Event | float:
    """Return the time on the device: on a GPU an event, which does not synchronize."""
    if _device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    synchronize()
    return time.perf_counter()


def _elapsed_seconds(first: torch.cuda.Event | float, second: torch.cuda.Event | float) -> float:
    """Return the seconds between two timestamps."""
    if isinstance(first, float):
        return second - first
    return first.elapsed_time(second) / 1000


def synchronize(_: object = None) -> None:
    """Wait for all kernels on the device."""
    if _device.type == "cuda":
        torch.cuda.synchronize()
    elif _device.type == "mps":
        torch.mps.synchronize()


def peak_memory() -> int:
    """Return the peak memory in bytes: of tensors on a GPU, of the process on a CPU."""
    if _device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_rss()


def describe_gpu() -> dict[str, float | str]:
    """Return the bytes that torch may take of the GPU, and its libraries; nothing for a CPU."""
    if _device.type != "cuda":
        return {}
    return {
        "memory_limit": torch.cuda.mem_get_info()[0],
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def attention_kernels(step: Callable[[], SupportsFloat]) -> list[str]:
    """Return what computes attention in a step: the operations that dispatch, and GPU kernels."""
    with torch.profiler.profile() as profile:
        float(step())
    names = {event.name for event in profile.events()}
    return sorted(name for name in names if ATTENTION.search(name))


@torch.no_grad()
def matmul_speeds(shapes: dict[str, list[int]], dtype: Dtype) -> dict[str, float]:
    """Return the FLOP/s of each matmul `(M, K) @ (K, N)` by "name, kernel"."""
    speeds = {}
    for name, (M, K, N) in shapes.items():
        kind = {"dtype": DTYPES.get(dtype, torch.float32), "device": _device}
        x, w = torch.ones(M, K, **kind), torch.ones(N, K, **kind)
        for kernel, call in _matmul_kernels(x, w).items():
            seconds = seconds_per_call(call, synchronize)
            speeds[f"{name}, {kernel}"] = 2 * M * K * N / seconds
    return speeds


def _matmul_kernels(x: Tensor, w: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the matmuls to try: in float32 on a CPU oneDNN may be twice as fast as MKL."""
    w_t = w.T.contiguous()
    kernels = {"x @ w": lambda: x @ w_t, "linear": lambda: F.linear(x, w)}
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        onednn = torch.ops.mkldnn._linear_pointwise
        kernels["oneDNN"] = lambda: onednn(x, w, None, "none", [], None)
    return kernels


@torch.no_grad()
def read_speeds(size: int) -> dict[str, float]:
    """Return the bytes/s at which an array of `size` bytes is read, by kernel."""
    x = torch.ones(size // 4 // 1024, 1024, device=_device)
    v = torch.ones(1024, device=_device)
    kernels = {"sum": lambda: x.sum(), "x @ v": lambda: x @ v}
    return {name: size / seconds_per_call(call, synchronize) for name, call in kernels.items()}
