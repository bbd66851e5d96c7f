"""The worker of benchmarks.operations: `python -m benchmarks.workers.operation NAME`.

NAME is `torch_operations` or `flax_operations`. Such a module has the table `OPERATIONS`;
`default_ops(spec)`, the twin's own choice; `passes(function, arguments, spec)`, the calls to time,
by name; and `tools`, which selects and synchronizes the device.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks.spec import Spec
from benchmarks.timing import interleaved_seconds
from benchmarks.workers.session import serve
from gpt_common import cli
from gpt_common.hardware import tune_malloc


@dataclass(frozen=True)
class Operation:
    """A fast operation and the plain one that it replaces, called with the same arguments.

    `arguments(spec)` returns them. `option` is the field of the twin's `Ops` that selects the fast
    operation; one without is always used. Operations of training are timed forward and backward,
    those of generation (T=1) forward.
    """

    name: str
    arguments: Callable[[Spec], tuple[Any, ...]]
    plain: Callable[..., Any]
    fast: Callable[..., Any]
    option: str = ""
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    training: bool = True


class OperationSession:
    """Answers requests about the operations of one twin."""

    def __init__(self, twin: ModuleType) -> None:
        self._twin = twin

    def names(self, spec: dict[str, Any]) -> list[str]:
        """Select the device; return the operations of training, or for T=1 of generation."""
        self._spec = Spec.from_dict(spec)
        self._twin.tools.select_device(self._spec.device, self._spec.dtype)
        device = self._twin.tools.device_name()
        self._operations = {
            operation.name: operation
            for operation in self._twin.OPERATIONS
            if operation.training == (self._spec.seq_len > 1)
            and device in operation.devices
            and self._spec.dtype in operation.dtypes
        }
        return list(self._operations)

    def measure(self, name: str, rounds: int) -> dict[str, Any]:
        """Return the seconds of each pass in each round, plain and fast ones interleaved.

        And whether the twin's commands use the fast operation by default.
        """
        operation = self._operations[name]
        arguments = operation.arguments(self._spec)
        calls = {
            (kind, part): call
            for kind, function in (("plain", operation.plain), ("fast", operation.fast))
            for part, call in self._twin.passes(function, arguments, self._spec).items()
        }
        synchronize = self._twin.tools.synchronize
        timed = interleaved_seconds(list(calls.values()), synchronize, rounds=rounds)
        seconds: dict[str, dict[str, list[float]]] = {"plain": {}, "fast": {}}
        for (kind, part), found in zip(calls, timed, strict=True):
            seconds[kind][part] = found
        option = operation.option
        default = not option or bool(getattr(self._twin.default_ops(self._spec), option))
        return {"default": default, "seconds": seconds}


def main() -> None:
    """Serve the twin that the command line names."""
    tune_malloc()  # as the trainers do
    session = OperationSession(importlib.import_module(f"benchmarks.workers.{sys.argv[1]}"))
    serve({"names": session.names, "measure": session.measure})


if __name__ == "__main__":
    cli.run(main)
