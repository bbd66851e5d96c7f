"""The parent's side of a worker process, which computes only while it answers a request.

A request and its answer are one line of JSON each. The other workers block on their standard input
meanwhile, and so use no processor time.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.implementations import ROOT

TIMEOUT = 900.0  # seconds


class WorkerError(RuntimeError):
    """A worker failed, exited or timed out; the message is one line."""

    @property
    def out_of_memory(self) -> bool:
        """Whether it ran out of memory, by the error messages of either framework."""
        words = ("out of memory", "outofmemory", "resource_exhausted")
        return any(word in str(self).lower() for word in words)


class WorkerProcess:
    """A worker process. As a context manager, it ends with the block."""

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

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(self, call: str, *, timeout: float = TIMEOUT, **arguments: Any) -> Any:
        """Return the worker's answer. Raises `WorkerError` if it fails or exceeds the timeout."""
        assert self._process.stdin
        assert self._process.stdout
        timed_out = threading.Event()
        timer = threading.Timer(timeout, self._time_out, [timed_out])
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        timer.cancel()
        if not line:
            what = (
                f"no answer within {timeout:.0f} s" if timed_out.is_set() else "the process ended"
            )
            raise WorkerError(f"{what}: {self._last_error_line()}")
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

    def _time_out(self, timed_out: threading.Event) -> None:
        timed_out.set()  # before the kill, after which `ask` reads it
        self._process.kill()

    def _last_error_line(self) -> str:
        """Return the last line of the process's standard error."""
        self._process.kill()
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else f"exit code {code}"
