"""The parent's side: a program in a process of its own, which computes only when it is asked to.

A request and its answer are a line of JSON each. Between the two the other programs' processes wait
for a line, and so leave the processor alone.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.programs import ROOT

TIMEOUT = 900.0  # seconds


class WorkerError(RuntimeError):
    """A program failed, ended, or took too long; the message is one line."""

    @property
    def out_of_memory(self) -> bool:
        """Whether it failed for want of memory, in the words of either framework."""
        words = ("out of memory", "outofmemory", "resource_exhausted")
        return any(word in str(self).lower() for word in words)


class Worker:
    """The process of one program. As a context manager, it ends with the block."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                cwd=ROOT,
                env=dict(environ),
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(str(error)) from None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(self, call: str, *, timeout: float = TIMEOUT, **arguments: Any) -> Any:
        """Return what the program answers. Raises `WorkerError` where it does not in time."""
        assert self._process.stdin
        assert self._process.stdout
        late = threading.Event()
        timer = threading.Timer(timeout, self._abandon, [late])
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        timer.cancel()
        if not line:
            what = f"no answer within {timeout:.0f} s" if late.is_set() else "the process ended"
            raise WorkerError(f"{what}: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(" ".join(answer["error"].split()))
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def _abandon(self, late: threading.Event) -> None:
        late.set()  # first: whoever sees the process end asks for it
        self._process.kill()

    def _last_words(self) -> str:
        """Return the last line that the process wrote to its standard error."""
        self._process.kill()
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else f"exit code {code}"
