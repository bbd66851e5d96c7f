"""The worker's side: `python -m benchmarks.workers.session NAME` serves one implementation.

NAME is a module of `benchmarks.workers` with the functions that `Session` calls.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.spec import Dtype, Spec
from gpt_common import cli
from gpt_common.config import Device
from gpt_common.errors import InputError

Answer = dict[str, Any]


class Session:
    """Answers requests about one implementation: its training, generation, memory and peaks."""

    def __init__(self, implementation: ModuleType) -> None:
        self._implementation = implementation

    def device(self, name: Device, dtype: Dtype) -> str:
        """Select a device and return its type. Raises `InputError` if it is unavailable."""
        self._dtype = dtype
        self._implementation.tools.select_device(name, dtype)
        return self._implementation.tools.device_name()

    def describe_gpu(self) -> Answer:
        """Return what the framework may take of the GPU's memory, and the versions of CUDA."""
        return self._implementation.tools.describe_gpu()

    def train(self, spec: dict[str, Any]) -> Answer:
        """Build model and optimizer and run the first step, which compiles."""
        started = time.perf_counter()
        self._spec = Spec.from_dict(spec)
        self._step = self._implementation.training(self._spec)
        built = time.perf_counter()
        first = self.steps(1)
        return {
            "setup_seconds": built - started,
            "first_step_seconds": first["seconds"][0],
            "loss": first["loss"],
            "device": self._implementation.tools.device_name(),
        }

    def steps(self, count: int) -> Answer:
        """Run `count` steps; return the seconds of each and the last loss."""
        seconds, loss = self._implementation.tools.time_steps(self._step, count)
        return {"seconds": seconds, "loss": loss}

    def attention_kernels(self) -> list[str]:
        """Run one more step; return the names of the kernels that compute its attention."""
        return self._implementation.tools.attention_kernels(self._step)

    def load(self, spec: dict[str, Any]) -> Answer:
        """Build a model for generation."""
        started = time.perf_counter()
        self._spec = Spec.from_dict(spec)
        self._generate = self._implementation.generation(self._spec)
        seconds = time.perf_counter() - started
        return {"setup_seconds": seconds, "device": self._implementation.tools.device_name()}

    def generate(self, prompt: list[int], batch_size: int, new_tokens: int) -> Answer:
        """Continue a batch of the same prompt; return the seconds and a sequence's length."""
        started = time.perf_counter()
        sequences = self._generate(prompt, batch_size, new_tokens)
        return {"seconds": time.perf_counter() - started, "length": len(sequences[0])}

    def memory(self) -> int:
        """Return the peak memory in bytes: the GPU's, or the process's on a CPU."""
        return self._implementation.tools.peak_memory()

    def matmuls(self, shapes: dict[str, list[int]]) -> dict[str, float]:
        """Return the FLOP/s of matmuls `(M, K) @ (K, N)` by every kernel, on the `device`."""
        return self._implementation.tools.matmul_speeds(shapes, self._dtype)

    def bandwidth(self, size: int) -> dict[str, float]:
        """Return the bytes/s at which an array of `size` bytes is read, on the `device`."""
        return self._implementation.tools.read_speeds(size)


def peak_rss() -> int:
    """Return the peak resident memory of this process in bytes.

    From /proc where it exists: Linux's `ru_maxrss` may be the parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(calls: dict[str, Callable[..., Any]]) -> None:
    """Answer requests until standard input ends. Other output is sent to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": calls[request["call"]](**request["arguments"])}
        except InputError as error:
            answer = {"error": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Serve the implementation that the command line names."""
    session = Session(importlib.import_module(f"benchmarks.workers.{sys.argv[1]}"))
    names = ("device", "train", "steps", "load", "generate", "memory", "matmuls", "bandwidth")
    names += ("describe_gpu", "attention_kernels")
    serve({name: getattr(session, name) for name in names})


if __name__ == "__main__":
    cli.run(main)
