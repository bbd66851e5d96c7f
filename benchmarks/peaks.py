"""The peaks that a measured speed is compared with: the fastest of both frameworks.

They say what the hardware can do. One framework's own matmul may be far slower than the other's.
"""

from __future__ import annotations

from functools import cache
from typing import Any, SupportsFloat

from rich.console import Console

from benchmarks.candidate import Candidate
from benchmarks.implementations import BY_NAME
from benchmarks.process import TIMEOUT
from benchmarks.spec import Dtype
from gpt_common.config import Device, GPTConfig

FRAMEWORKS = ("torch", "flax")
READ_BYTES = 1 << 29  # of the array that is read: larger than any cache
MAX_ROWS = 8192  # of a matmul: with more it is no faster, and takes memory


def matmul_shapes(model: GPTConfig, rows: int) -> dict[str, tuple[int, int, int]]:
    """Return two of the model's matmuls as `(M, K, N)`: the MLP's first layer and the head."""
    M, C = min(rows, MAX_ROWS), model.n_embd
    return {"c_fc": (M, C, 4 * C), "head": (M, C, model.padded_vocab_size)}


@cache
def matmul_speeds(
    model: GPTConfig,
    rows: int,
    device: Device,
    dtype: Dtype,
    console: Console,
    timeout: SupportsFloat = TIMEOUT,
) -> dict[str, float]:
    """Return the FLOP/s of the model's matmuls in each framework, by "framework: name, kernel".

    Measured once by a command: variants of one dtype have the same peak.
    """
    shapes = matmul_shapes(model, rows)
    return ask_frameworks("matmuls", device, dtype, console, timeout, shapes=shapes)


@cache
def read_speeds(
    device: Device, dtype: Dtype, console: Console, timeout: SupportsFloat = TIMEOUT
) -> dict[str, float]:
    """Return the bytes/s at which each framework reads an array, by "framework: kernel"."""
    return ask_frameworks("bandwidth", device, dtype, console, timeout, size=READ_BYTES)


def ask_frameworks(
    call: str,
    device: Device,
    dtype: Dtype,
    console: Console,
    timeout: SupportsFloat,
    **arguments: Any,
) -> dict[str, float]:
    """Return the speeds that each framework answers, in its own process.

    A framework that is not installed, or cannot use the device, has none.
    """
    speeds: dict[str, float] = {}
    for name in FRAMEWORKS:
        with Candidate(BY_NAME[name], console, timeout) as candidate:
            candidate.ask("device", name=device, dtype=dtype)
            answer = candidate.ask(call, **arguments) or {}
        speeds |= {f"{name}: {kernel}": speed for kernel, speed in answer.items()}
    return speeds
