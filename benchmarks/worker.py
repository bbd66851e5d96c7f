"""The child's side: `python -m benchmarks.worker SUBJECT` answers requests about one program.

A subject is a module of `benchmarks.subjects` with the functions that `Session` calls.
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
    """One program: its training, or its generation, and the machine as it finds it."""

    def __init__(self, subject: ModuleType) -> None:
        self._subject = subject

    def device(self, name: Device, dtype: Dtype) -> str:
        """Return the type of the device that is found. Raises `InputError` where there is none."""
        self._subject.tools.select_device(name, dtype)
        return self._subject.tools.device_name()

    def train(self, spec: dict[str, Any]) -> Answer:
        """Build model and optimizer and do the first step, which is what compiles."""
        started = time.perf_counter()
        self._spec = Spec.from_dict(spec)
        self._step = self._subject.training(self._spec)
        built = time.perf_counter()
        first = self.steps(1)
        return {
            "setup_seconds": built - started,
            "first_step_seconds": first["seconds"][0],
            "loss": first["loss"],
            "device": self._subject.tools.device_name(),
        }

    def steps(self, count: int) -> Answer:
        """Train on; return the seconds of each step and the last loss."""
        seconds, loss = self._subject.tools.time_steps(self._step, count)
        return {"seconds": seconds, "loss": loss}

    def load(self, spec: dict[str, Any]) -> Answer:
        """Build a model to generate with."""
        started = time.perf_counter()
        self._spec = Spec.from_dict(spec)
        self._generate = self._subject.generation(self._spec)
        seconds = time.perf_counter() - started
        return {"setup_seconds": seconds, "device": self._subject.tools.device_name()}

    def generate(self, prompt: list[int], batch_size: int, new_tokens: int) -> Answer:
        """Continue `batch_size` rows of the prompt; return the seconds and the length of a row."""
        started = time.perf_counter()
        rows = self._generate(prompt, batch_size, new_tokens)
        return {"seconds": time.perf_counter() - started, "length": len(rows[0])}

    def memory(self) -> int:
        """Return the most memory held so far, in bytes: the GPU's, or the process's on a CPU."""
        return self._subject.tools.peak_memory()

    def matmuls(self, shapes: dict[str, list[int]]) -> dict[str, float]:
        """Return the FLOP/s of products `(M, K) @ (K, N)` by every route the framework has."""
        return self._subject.tools.matmul_speeds(shapes, self._spec.dtype)

    def bandwidth(self, size: int) -> dict[str, float]:
        """Return the bytes/s at which a large array of so many bytes is read, by every route."""
        return self._subject.tools.read_speeds(size)


def peak_resident() -> int:
    """Return the most memory this process has held, in bytes.

    Linux keeps it for each program; `ru_maxrss` may be that of the process which started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(calls: dict[str, Callable[..., Any]]) -> None:
    """Answer requests until standard input ends; what others print goes to standard error."""
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
    """Serve the subject that the command line names."""
    session = Session(importlib.import_module(f"benchmarks.subjects.{sys.argv[1]}"))
    names = ("device", "train", "steps", "load", "generate", "memory", "matmuls", "bandwidth")
    serve({name: getattr(session, name) for name in names})


if __name__ == "__main__":
    cli.run(main)
