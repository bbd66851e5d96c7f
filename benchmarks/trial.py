"""A program under measurement, beside others: what fails is noted, and the others go on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.process import Worker, WorkerError
from benchmarks.programs import Program
from gpt_common.data import load_splits

Result = dict[str, Any]


class Trial:
    """A program and its worker. After an error it does nothing more."""

    def __init__(self, program: Program, console: Console, timeout: float) -> None:
        self.program, self.error = program, ""
        self.out_of_memory = False
        self._console, self._timeout = console, timeout
        self._worker: Worker | None = None

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._worker:
            self._worker.close()

    def failure(self) -> Result:
        """Return what there is to report in place of figures."""
        return {
            "name": self.program.name,
            "error": self.error,
            "out_of_memory": self.out_of_memory,
        }

    def ask(self, call: str, **arguments: Any) -> Any:
        """Return the worker's answer, or None where it fails or has failed before."""
        if self.error:
            return None
        try:
            if self._worker is None:
                self._worker = Worker(self.program.command, self.program.environ)
            with self._console.status(f"{self.program.name}: {call}"):
                return self._worker.ask(call, timeout=self._timeout, **arguments)
        except WorkerError as error:
            self.error, self.out_of_memory = str(error), error.out_of_memory
            self._console.print(f"{self.program.name}: {call}: {error}")
            self.__exit__()
            return None


@contextmanager
def trials(programs: list[Program], console: Console, timeout: float) -> Iterator[list[Trial]]:
    """Yield a trial for each program; their processes end with the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(Trial(p, console, timeout)) for p in programs]


@contextmanager
def corpus(count: int | None = None) -> Iterator[str]:
    """Yield the path of a file with the bundled text's tokens, for every process to map."""
    tokens, _ = load_splits("shakespeare", 0.0, 50257)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.npy"
        np.save(path, tokens[0 : len(tokens) if count is None else count])
        yield str(path)


def stderr_console() -> Console:
    """Return a console for progress and failures, apart from results."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
