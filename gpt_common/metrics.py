"""The log of a run: one JSON line per step in its folder, and lines on the console."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, SupportsFloat, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from gpt_common.cli import Stdout
from gpt_common.errors import NonFiniteError
from gpt_common.progress import plain_console
from gpt_common.run_folder import LOG
from gpt_common.storage import atomic_file, filename_in_errors


class RunLog:
    """The log of a run, on disk and on the console.

    A step is logged at once, or, on an `asynchronous` device, when the next one has been
    dispatched, so that reading its loss does not stall the device. Raises `NonFiniteError` if its
    loss or gradient norm is not finite. Without a `folder` nothing is written or printed.
    """

    def __init__(
        self,
        folder: Path | None,
        first_step: int,
        steps: int,
        tokens_per_step: int,
        log_every: int,
        asynchronous: bool = False,
    ) -> None:
        self._stdout = Stdout()
        self.console = plain_console(file=cast(IO[str], self._stdout))
        self.console.quiet = folder is None
        self._steps, self._log_every = steps, log_every
        self._tokens_per_step = tokens_per_step
        self._asynchronous = asynchronous
        self._pending: tuple[int, float, Mapping[str, SupportsFloat]] | None = None
        self._last_time = 0.0  # of the end of the previous step
        self.finite_steps = first_step  # number of steps so far, all with finite losses
        self._path, self._first_step = folder and folder / LOG, first_step
        columns = ("step", MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        )
        self._task = self._progress.add_task("", completed=first_step, total=steps)

    def __enter__(self) -> RunLog:
        if self._path:
            self._file = _open_log(self._path, self._first_step)
        self._progress.start()
        self._last_time = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        if self._path:
            self._file.close()

    @property
    def pipe_closed(self) -> bool:
        """Whether the console is a pipe whose reader has exited."""
        return self._stdout.pipe_closed

    def step(self, step: int, learning_rate: float, metrics: Mapping[str, SupportsFloat]) -> None:
        """Log this step, or the previous one if the device is asynchronous."""
        self.flush()
        self._pending = (step, learning_rate, metrics)
        if not self._asynchronous:
            self.flush()

    def flush(self) -> None:
        """Log the pending step; wait for its metrics."""
        if self._pending is None:
            return
        step, learning_rate, metrics = self._pending
        self._pending = None
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])  # waits for the device
        ended = time.perf_counter()
        seconds, self._last_time = ended - self._last_time, ended
        rate = self._tokens_per_step / seconds
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteError(f"step {step}: loss {loss}, gradient norm {norm}: not finite")
        self.finite_steps = step + 1
        entry = {"step": step, "loss": loss, "grad_norm": norm, "learning_rate": learning_rate}
        self._write(**entry, seconds=seconds, tokens_per_second=rate)
        self._progress.update(self._task, completed=step + 1)
        if step % self._log_every == 0 or step + 1 == self._steps:
            self.print(  # 80 columns; the file has every digit
                f"step {step:5d} | loss {loss:9.6f} | norm {norm:6.3f} | lr {learning_rate:.1e} | "
                f"{1000 * seconds:4.0f} ms | {rate:,.0f} tok/s"
            )

    def evaluation(self, step: int, loss: float) -> None:
        """Log the validation loss after `step` updates. Raises `NonFiniteError` if not finite."""
        if not math.isfinite(loss):
            raise NonFiniteError(f"step {step}: validation loss {loss}: not finite")
        self._write(step=step, val_loss=loss)
        self.print(f"step {step:5d} | validation loss {loss:.6f}")
        self._last_time = time.perf_counter()

    def samples(self, step: int, texts: list[str]) -> None:
        """Log samples of the model after `step` updates."""
        self._write(step=step, samples=texts)
        for text in texts:
            self.print(f"> {text}")
        self._last_time = time.perf_counter()

    def saved(self, folder: Path) -> None:
        """Log that a checkpoint was saved."""
        self.print(f"saved {folder}")
        self._last_time = time.perf_counter()

    def print(self, line: str) -> None:
        """Print a line on the console, above the progress bar if there is one."""
        self.console.print(line)

    def _write(self, **entry: Any) -> None:
        if not self._path:
            return
        with filename_in_errors(self._path):
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()


def _open_log(path: Path, first_step: int) -> Any:
    """Open a log for appending, without the entries of steps that a resumed run repeats."""
    entries = read_log(path) if path.exists() else []
    kept = [entry for entry in entries if _precedes(entry, first_step)]
    with atomic_file(path) as part:  # a run that is killed now keeps its log
        part.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    return path.open("a")


def _precedes(entry: dict[str, Any], first_step: int) -> bool:
    """Whether an entry is of the first `first_step` updates; a loss is from before its update."""
    return entry["step"] + ("loss" in entry) <= first_step


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a `log.jsonl`, without damaged lines."""
    lines = path.read_text(errors="replace").splitlines()
    return [entry for line in lines if (entry := _parse_entry(line)) is not None]


def _parse_entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and type(entry.get("step")) is int else None
