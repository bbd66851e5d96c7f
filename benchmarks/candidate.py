"""One implementation under measurement. A failure is recorded, and the others continue."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
from rich.console import Console

from benchmarks.implementations import Implementation
from benchmarks.process import WorkerError, WorkerProcess
from gpt_common.data import load_splits

Result = dict[str, Any]


class Candidate:
    """An implementation and its worker process. After an error it makes no further calls.

    `timeout` is in seconds, and read anew for each request: it may be a clock that runs out.
    """

    def __init__(
        self, implementation: Implementation, console: Console, timeout: SupportsFloat
    ) -> None:
        self.implementation, self.error = implementation, ""
        self.out_of_memory = False
        self._console, self._timeout = console, timeout
        self._worker: WorkerProcess | None = None

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._worker:
            self._worker.close()

    def failure(self) -> Result:
        """Return the error, in the form of a result."""
        return {
            "name": self.implementation.name,
            "error": self.error,
            "out_of_memory": self.out_of_memory,
        }

    def ask(self, call: str, **arguments: Any) -> Any:
        """Return the worker's answer, or None if it fails or has failed before."""
        if self.error:
            return None
        try:
            if self._worker is None:
                self._worker = WorkerProcess(
                    self.implementation.command, self.implementation.environ
                )
            with self._console.status(f"{self.implementation.name}: {call}"):
                return self._worker.ask(call, timeout=float(self._timeout), **arguments)
        except WorkerError as error:
            self.error, self.out_of_memory = str(error), error.out_of_memory
            self._console.print(f"{self.implementation.name}: {call}: {error}")
            self.__exit__()
            return None


@contextmanager
def candidates(
    implementations: list[Implementation], console: Console, timeout: SupportsFloat
) -> Iterator[list[Candidate]]:
    """Yield a candidate for each implementation; their processes end with the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(Candidate(i, console, timeout)) for i in implementations]


@contextmanager
def corpus(count: int | None = None) -> Iterator[str]:
    """Yield the path of a file with the bundled text's tokens, which every process maps."""
    tokens, _ = load_splits("shakespeare", 0.0, 50257)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.npy"
        np.save(path, tokens[0 : len(tokens) if count is None else count])
        yield str(path)


def stderr_console() -> Console:
    """Return a console for progress and errors; results go to standard output."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
