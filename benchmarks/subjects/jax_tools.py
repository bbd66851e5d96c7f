"""The clock, the peaks and the memory of programs in JAX."""

import time
from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.timing import seconds_per_call
from benchmarks.worker import peak_resident
from gpt_common.config import Device, Dtype
from gpt_flax import device as twin
from gpt_flax.device import DTYPES

_device: jax.Device


def select_device(name: Device, dtype: Dtype) -> jax.Device:
    """Return the device, chosen and set up as `gpt_flax` does, and keep it for what follows."""
    global _device
    _device = twin.select_device(name, dtype)
    return _device


def device_name() -> str:
    """Return the type of the device, in torch's words."""
    return "cuda" if _device.platform == "gpu" else _device.platform


def time_steps(step: Callable[[], Array], count: int) -> tuple[list[float], float]:
    """Return the seconds of each step and the last loss.

    As in the trainer, a step's loss is read when the next one has been started: on a GPU, which
    then has always work. On a CPU the step itself keeps the processor, and is waited for.
    """
    overlap = int(device_name() != "cpu")
    losses, marks = [], [time.perf_counter()]
    for started in range(1, count + 1):
        losses.append(step())
        if started > overlap:
            float(losses[started - 1 - overlap])
            marks.append(time.perf_counter())
    loss = float(losses[-1])
    if overlap:
        marks.append(time.perf_counter())
    return [b - a for a, b in pairwise(marks)], loss


def peak_memory() -> int:
    """Return the most memory held: in arrays on a GPU, by the process on a CPU."""
    statistics = _device.memory_stats() if device_name() == "cuda" else None
    return statistics["peak_bytes_in_use"] if statistics else peak_resident()


def matmul_speeds(shapes: dict[str, list[int]], dtype: Dtype) -> dict[str, float]:
    """Return the FLOP/s of each product `(M, K) @ (K, N)` by each route, by "shape, route"."""
    speeds = {}
    for name, (M, K, N) in shapes.items():
        x, w = jnp.ones((M, K), DTYPES[dtype]), jnp.ones((K, N), DTYPES[dtype])
        for route, multiply in _matmul_routes(dtype).items():
            call = jax.jit(multiply).lower(x, w).compile()
            seconds = seconds_per_call(lambda c=call, x=x, w=w: c(x, w), jax.block_until_ready)
            speeds[f"{name}, {route}"] = 2 * M * K * N / seconds
    return speeds


def _matmul_routes(dtype: Dtype) -> dict[str, Callable[[Array, Array], Array]]:
    """Return the ways to multiply: on a CPU a bfloat16 product is faster into float32."""
    routes: dict[str, Callable[[Array, Array], Array]] = {"x @ w": jnp.matmul}
    if dtype == "bfloat16":
        routes["x @ w in float32"] = lambda x, w: jnp.matmul(
            x, w, preferred_element_type=jnp.float32
        )
    return routes


def read_speeds(size: int) -> dict[str, float]:
    """Return the bytes/s at which an array of `size` bytes is read, by each route."""
    x, v = jnp.ones((size // 4 // 1024, 1024)), jnp.ones(1024)
    speeds = {}
    for name, read in {"sum": lambda x, v: x.sum(), "x @ v": jnp.matmul}.items():
        call = jax.jit(read).lower(x, v).compile()
        seconds = seconds_per_call(lambda c=call: c(x, v), jax.block_until_ready)
        speeds[name] = size / seconds
    return speeds
