"""The clock, the peaks and the memory of programs in torch."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import SupportsFloat

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import seconds_per_call
from benchmarks.worker import peak_resident
from gpt_common.config import Device, Dtype
from gpt_torch import device as twin

DTYPES = {"bfloat16": torch.bfloat16, "float64": torch.float64}
_device = torch.device("cpu")


def select_device(name: Device, dtype: Dtype) -> torch.device:
    """Return the device, chosen and set up as `gpt_torch` does, and keep it for what follows."""
    global _device
    _device = twin.select_device(name, dtype)
    return _device


def device_name() -> str:
    """Return the type of the device."""
    return _device.type


def time_steps(step: Callable[[], SupportsFloat], count: int) -> tuple[list[float], float]:
    """Return the seconds of each step and the last loss.

    As in the trainer, a step's loss is read when the next one has been started.
    """
    losses, marks = [], [_mark()]
    for _ in range(count):
        losses.append(step())
        marks.append(_mark())
        if len(losses) > 1:
            float(losses[-2])
    loss = float(losses[-1])
    synchronize()
    return [_between(*pair) for pair in pairwise(marks)], loss


def _mark() -> torch.cuda.Event | float:
    """Return a point in the device's time: on a GPU an event, which waits for nothing."""
    if _device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    synchronize()
    return time.perf_counter()


def _between(first: torch.cuda.Event | float, second: torch.cuda.Event | float) -> float:
    """Return the seconds from one mark to another."""
    if isinstance(first, float):
        return second - first
    return first.elapsed_time(second) / 1000


def synchronize(_: object = None) -> None:
    """Wait for everything that has been started."""
    if _device.type == "cuda":
        torch.cuda.synchronize()
    elif _device.type == "mps":
        torch.mps.synchronize()


def peak_memory() -> int:
    """Return the most memory held: in tensors on a GPU, by the process on a CPU."""
    if _device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_resident()


@torch.no_grad()
def matmul_speeds(shapes: dict[str, list[int]], dtype: Dtype) -> dict[str, float]:
    """Return the FLOP/s of each product `(M, K) @ (K, N)` by each route, by "shape, route"."""
    speeds = {}
    for name, (M, K, N) in shapes.items():
        number = DTYPES.get(dtype, torch.float32)
        x, w = torch.ones(M, K, dtype=number), torch.ones(N, K, dtype=number)
        x, w = x.to(_device), w.to(_device)
        for route, call in _matmul_routes(x, w).items():
            seconds = seconds_per_call(call, synchronize)
            speeds[f"{name}, {route}"] = 2 * M * K * N / seconds
    return speeds


def _matmul_routes(x: Tensor, w: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to multiply: in float32 on a CPU oneDNN may be twice as fast as MKL."""
    w_t = w.T.contiguous()
    routes = {"x @ w": lambda: x @ w_t, "linear": lambda: F.linear(x, w)}
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        onednn = torch.ops.mkldnn._linear_pointwise
        routes["oneDNN"] = lambda: onednn(x, w, None, "none", [], None)
    return routes


@torch.no_grad()
def read_speeds(size: int) -> dict[str, float]:
    """Return the bytes/s at which an array of `size` bytes is read, by each route."""
    x = torch.ones(size // 4 // 1024, 1024, device=_device)
    v = torch.ones(1024, device=_device)
    routes = {"sum": lambda: x.sum(), "x @ v": lambda: x @ v}
    return {name: size / seconds_per_call(call, synchronize) for name, call in routes.items()}
