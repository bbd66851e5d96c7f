"""Time, peak speeds and peak memory of implementations in JAX."""

import re
import time
from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.timing import seconds_per_call
from benchmarks.workers.session import peak_rss
from gpt_common.config import Device, Dtype
from gpt_flax import device as twin
from gpt_flax.precision import DTYPES

CUSTOM_CALL = re.compile(r'custom_call_target="([^"]+)"')
_device: jax.Device
synchronize = jax.block_until_ready


def select_device(name: Device, dtype: Dtype) -> jax.Device:
    """Select the device as `gpt_flax` does, for this and the other functions; return it."""
    global _device
    _device = twin.select_device(name, dtype)
    return _device


def device_name() -> str:
    """Return the type of the device, by torch's name for it."""
    return "cuda" if _device.platform == "gpu" else _device.platform


def time_steps(step: Callable[[], Array], count: int) -> tuple[list[float], float]:
    """Return the seconds of each step and the last loss.

    As in the trainer, on a GPU a step's loss is read after the next step has been dispatched, so
    that the device is never idle. On a CPU each step is synchronized.
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
    """Return the peak memory in bytes: of arrays on a GPU, of the process on a CPU."""
    statistics = _device.memory_stats() if device_name() == "cuda" else None
    return statistics["peak_bytes_in_use"] if statistics else peak_rss()


def describe_gpu() -> dict[str, float | str]:
    """Return the bytes that jax may take of the GPU, and its libraries; nothing for a CPU."""
    if device_name() != "cuda":
        return {}
    return {"memory_limit": _device.memory_stats()["bytes_limit"], **_cuda_libraries()}


def _cuda_libraries() -> dict[str, str]:
    """Return the versions of CUDA and cuDNN that jax has loaded, if it still tells them."""
    try:
        from jax._src.lib import cuda_versions  # not public

        cuda, cudnn = cuda_versions.cuda_runtime_get_version(), cuda_versions.cudnn_get_version()
    except (ImportError, AttributeError):
        return {}
    return {"cuda": f"{cuda // 1000}.{cuda % 1000 // 10}", "cudnn": str(cudnn)}


def attention_kernels(step: Callable[[], Array]) -> list[str]:
    """Return the custom calls for attention in the programs that have been compiled.

    XLA's own attention is none: it is fused with what is around it.
    """
    programs = (
        module.to_string()
        for executable in _device.client.live_executables()
        for module in executable.hlo_modules()
    )
    targets = {name for text in programs for name in CUSTOM_CALL.findall(text)}
    return sorted(name for name in targets if "fmha" in name)


def matmul_speeds(shapes: dict[str, list[int]], dtype: Dtype) -> dict[str, float]:
    """Return the FLOP/s of each matmul `(M, K) @ (K, N)` by "name, kernel"."""
    speeds = {}
    for name, (M, K, N) in shapes.items():
        x, w = jnp.ones((M, K), DTYPES[dtype]), jnp.ones((K, N), DTYPES[dtype])
        for kernel, multiply in _matmul_kernels(dtype).items():
            call = jax.jit(multiply).lower(x, w).compile()
            seconds = seconds_per_call(lambda c=call, x=x, w=w: c(x, w), synchronize)
            speeds[f"{name}, {kernel}"] = 2 * M * K * N / seconds
    return speeds


def _matmul_kernels(dtype: Dtype) -> dict[str, Callable[[Array, Array], Array]]:
    """Return the matmuls to try: on a CPU bfloat16 operands are faster with a float32 result."""
    kernels: dict[str, Callable[[Array, Array], Array]] = {"x @ w": jnp.matmul}
    if dtype == "bfloat16":
        kernels["x @ w in float32"] = lambda x, w: jnp.matmul(
            x, w, preferred_element_type=jnp.float32
        )
    return kernels


def read_speeds(size: int) -> dict[str, float]:
    """Return the bytes/s at which an array of `size` bytes is read, by kernel."""
    x, v = jnp.ones((size // 4 // 1024, 1024)), jnp.ones(1024)
    speeds = {}
    for name, read in {"sum": lambda x, v: x.sum(), "x @ v": jnp.matmul}.items():
        call = jax.jit(read).lower(x, v).compile()
        seconds = seconds_per_call(lambda c=call: c(x, v), synchronize)
        speeds[name] = size / seconds
    return speeds
