"""The log of a run: one JSON line per step in its folder, and lines on the console."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, SupportsFloat, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from gpt_common.cli import Stdout
from gpt_common.errors import NonFiniteError
from gpt_common.hellaswag import Counts
from gpt_common.loss_scale import BACKOFF_FACTOR, MINIMUM
from gpt_common.progress import plain_console
from gpt_common.run_folder import LOG
from gpt_common.storage import atomic_file, filename_in_errors
from gpt_common.trackers import Trackers


class RunLog:
    """The log of a run, on disk and on the console.

    A step is logged at once, or, on an `asynchronous` device, when the next one has been
    dispatched, so that reading its loss does not stall the device. Raises `NonFiniteError` if its
    loss or gradient norm is not finite, unless float16 overflowed and the update was skipped; then
    the norm is null in the file. Without a `folder` nothing is written or printed.
    `seconds_at_peak` is the time of a step at the GPUs' peak FLOP/s, `peak_memory` returns bytes.
    """

    def __init__(
        self,
        folder: Path | None,
        first_step: int,
        steps: int,
        tokens_per_step: int,
        log_every: int,
        asynchronous: bool = False,
        seconds_at_peak: float | None = None,
        peak_memory: Callable[[], int | None] = lambda: None,
        trackers: Trackers | None = None,
    ) -> None:
        self._stdout = Stdout()
        self.console = plain_console(file=cast(IO[str], self._stdout))
        self.console.quiet = folder is None
        self._steps, self._log_every = steps, log_every
        self._tokens_per_step = tokens_per_step
        self._asynchronous = asynchronous
        self._pending: tuple[int, float, Mapping[str, SupportsFloat]] | None = None
        self._seconds_at_peak, self._peak_memory = seconds_at_peak, peak_memory
        self._trackers = trackers or Trackers()
        self._last_time = 0.0  # of the end of the previous step
        self._first_end: tuple[int, float] | None = None  # step and time: it has compiled, too
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
            self._trackers.start()
        self._progress.start()
        self._last_time = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        if self._path:
            self._file.close()
            self._trackers.close()

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
        numbers = {name: float(number) for name, number in metrics.items()}  # waits for the device
        ended = time.perf_counter()
        seconds, self._last_time = ended - self._last_time, ended
        rate = self._tokens_per_step / seconds
        entry: dict[str, Any] = {"step": step} | checked(step, **numbers)
        self.finite_steps = step + 1
        entry |= {"learning_rate": learning_rate, "seconds": seconds, "tokens_per_second": rate}
        entry |= self._gpu_figures(seconds) | {"eta": self._eta(step, ended, seconds)}
        self._write(**entry)
        self._progress.update(self._task, completed=step + 1)
        if step % self._log_every == 0 or step + 1 == self._steps:
            self.print(step_line(**entry))

    def _gpu_figures(self, seconds: float) -> dict[str, float]:
        """Return the model FLOPs utilisation and the peak memory, in bytes, if they are known."""
        mfu = self._seconds_at_peak and self._seconds_at_peak / seconds
        figures = {"mfu": mfu, "peak_memory": self._peak_memory()}
        return {name: figure for name, figure in figures.items() if figure is not None}

    def _eta(self, step: int, ended: float, seconds: float) -> float:
        """Return the seconds that are left, by the mean of all steps but the first."""
        first, first_ended = self._first_end = self._first_end or (step, ended)
        mean = (ended - first_ended) / (step - first) if step > first else seconds
        return mean * (self._steps - step - 1)

    def evaluation(self, step: int, loss: float) -> None:
        """Log the validation loss after `step` updates. Raises `NonFiniteError` if not finite."""
        if not math.isfinite(loss):
            raise NonFiniteError(f"step {step}: validation loss {loss}: not finite")
        self._write(step=step, val_loss=loss)
        self.print(f"step {step:5d} | validation loss {loss:.6f}")
        self._last_time = time.perf_counter()

    def hellaswag(self, step: int, counts: Counts) -> None:
        """Log HellaSwag's accuracy after `step` updates, by the mean loss of each ending."""
        accuracy = counts.correct_norm / counts.total
        self._write(step=step, hellaswag=accuracy)
        self.print(
            f"step {step:5d} | HellaSwag {accuracy:.4f} ({counts.correct_norm} of {counts.total})"
        )
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
        self._trackers.log(entry)


def checked(
    step: int, loss: float, grad_norm: float, loss_scale: float | None = None, skipped: float = 0
) -> dict[str, Any]:
    """Return a step's numbers for the file; in float16 also the scale, and whether it was skipped.

    Raises `NonFiniteError` if they are not finite, or the scale would fall below the minimum.
    """
    if not (math.isfinite(loss) and (skipped or math.isfinite(grad_norm))):
        raise NonFiniteError(f"step {step}: loss {loss}, gradient norm {grad_norm}: not finite")
    if loss_scale is None:
        return {"loss": loss, "grad_norm": grad_norm}
    if skipped and loss_scale * BACKOFF_FACTOR < MINIMUM:
        raise NonFiniteError(
            f"step {step}: gradients are not finite at loss scale {loss_scale:g}, "
            f"the minimum is {MINIMUM:g}; try --dtype float32"
        )
    norm = None if skipped else grad_norm  # JSON has no infinity
    return {"loss": loss, "grad_norm": norm, "loss_scale": loss_scale, "skipped": bool(skipped)}


def step_line(
    *,
    step: int,
    loss: float,
    grad_norm: float | None,
    learning_rate: float,
    tokens_per_second: float,
    eta: float,
    mfu: float | None = None,
    peak_memory: float | None = None,
    loss_scale: float = 1,
    **others: float,
) -> str:
    """Return a step's line on the console, of at most 80 columns; the file has every digit."""
    if grad_norm is None:
        return (
            f"step {step:5d} | loss {loss:9.6f} | skipped at loss scale {loss_scale:g} | "
            f"eta {rounded_time(eta)}"
        )
    if mfu is None:
        return (
            f"step {step:5d} | loss {loss:9.6f} | norm {grad_norm:6.3f} | lr {learning_rate:.1e} | "
            f"{tokens_per_second:,.0f} tok/s | eta {rounded_time(eta)}"
        )
    memory = "" if peak_memory is None else f" | {peak_memory / 1e9:.0f}GB"
    return (
        f"step {step:5d} | loss {loss:8.5f} | norm {grad_norm:5.2f} | "
        f"{tokens_per_second / 1000:.0f}k tok/s | mfu {mfu:.0%}{memory} | eta {rounded_time(eta)}"
    )


def rounded_time(seconds: float) -> str:
    """Return a time as less than a hundred seconds, minutes, hours, or as days."""
    for unit, size in (("s", 1), ("m", 60), ("h", 3600)):
        if round(seconds / size) < 100:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


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
