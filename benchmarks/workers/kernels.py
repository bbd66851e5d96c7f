"""The worker of benchmarks.roofline and memory: `python -m benchmarks.workers.kernels NAME`.

NAME is `torch_kernels` or `flax_kernels`. Such a module has `kernels(spec, card)`, which returns
what a GPU runs in a training step, and `peak_memory(spec, card)`. Neither needs a GPU.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.spec import Spec
from benchmarks.workers.session import serve
from gpt_common import cli


@dataclass(frozen=True)
class Kernel:
    """A kernel: the layer it is of, its bytes, its FLOPs, and how often a step runs it.

    The bytes are what it reads from memory and writes to it. The FLOPs are those of matrix
    products, which tensor cores compute.
    """

    layer: str
    bytes: float
    flops: float
    times: int = 1


def main() -> None:
    """Serve the twin that the command line names."""
    twin = importlib.import_module(f"benchmarks.workers.{sys.argv[1]}")

    def kernels(spec: dict[str, Any], card: str) -> list[dict[str, Any]]:
        return [asdict(kernel) for kernel in twin.kernels(Spec.from_dict(spec), card)]

    def peak_memory(spec: dict[str, Any], card: str) -> int:
        peak: int = twin.peak_memory(Spec.from_dict(spec), card)
        return peak

    serve({"kernels": kernels, "peak_memory": peak_memory})


if __name__ == "__main__":
    cli.run(main)
