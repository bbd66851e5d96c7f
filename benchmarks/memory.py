"""The GPU memory of a training step, and the largest batch that fits a card.

python -m benchmarks.memory   # needs no GPU
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.candidate import stderr_console
from benchmarks.cards import CardName
from benchmarks.implementations import BY_NAME
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.report import Result
from benchmarks.roofline import COMPILES
from benchmarks.spec import Dtype, Spec, check_length
from gpt_common import cli
from gpt_common.config import PRESETS, Preset
from gpt_common.errors import InputError, require_positive

USABLE = 0.9  # of a card's memory: the rest is the driver's, and lost between tensors


@dataclass(frozen=True)
class MemoryConfig:
    """Find how much GPU memory a training step needs, without a GPU.

    In Flax it is the peak of the program that XLA compiles for the card, which needs jax's CUDA
    plugin. In PyTorch it is the most bytes of tensors at once in two steps without torch.compile,
    over tensors without values. The table is Markdown, and the last line of the output is one JSON
    object.
    """

    framework: tuple[Literal["torch", "flax"], ...] = ("torch", "flax")
    """One or both twins."""
    dtype: tuple[Dtype, ...] = ("bfloat16", "float32")
    """Dtypes that matrix products compute in."""
    preset: Preset = "gpt2"
    """Named model configuration."""
    batch_size: tuple[int, ...] = (16, 32, 64, 128)
    """Sequences in a batch (B); two or more sizes."""
    seq_len: int = 1024
    """Tokens in a sequence (T)."""
    card: CardName = "h100"
    """The GPU that Flax is compiled for."""
    fits: tuple[float, ...] = (24, 40, 80)
    """Memory of GPUs, in GB, for which to name the largest batch, `128+` if all fit: a tenth of it
    stays free."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result to a file."""

    def __post_init__(self) -> None:
        if len(set(self.batch_size)) < 2:
            raise InputError(f"expected two batch sizes or more, got {self.batch_size}")
        for size in (*self.batch_size, *self.fits, self.seq_len):
            require_positive("batch_size, seq_len and fits", size)


def measure(
    framework: str, dtype: Dtype, fast_ops: bool, config: MemoryConfig, console: Console
) -> Result:
    """Return a twin's peak at each batch size, in bytes; one that fails has an error."""
    result: Result = {"name": framework, "dtype": dtype, "fast_ops": fast_ops}
    peaks = {}
    try:
        for size in config.batch_size:
            sizes = size, config.seq_len
            spec = Spec(PRESETS[config.preset], "", "cuda", dtype, *sizes, fast_ops=fast_ops)
            with console.status(f"{framework}: {dtype}, B={size}"):
                peaks[size] = peak_memory(framework, spec, config.card)
    except WorkerError as error:
        console.print(f"{framework}: {error}")
        return result | {"error": str(error)}
    largest = [largest_batch(peaks, 1e9 * USABLE * size) for size in config.fits]
    return result | {"peaks": [*peaks.values()], "largest_batches": largest}


def peak_memory(framework: str, spec: Spec, card: CardName) -> int:
    """Return the bytes of a step at its peak. Raises `WorkerError` if its process fails."""
    command = [sys.executable, "-m"]
    if framework == "torch":
        command += ["benchmarks.fake_cuda", "-m"]
    command += ["benchmarks.workers.kernels", f"{framework}_kernels"]
    with WorkerProcess(command, BY_NAME[framework].environ | COMPILES) as worker:
        peak: int = worker.ask("peak_memory", spec=spec.as_dict(), card=card)
        return peak


def largest_batch(peaks: dict[int, int], limit: float) -> int:
    """Return the largest batch, up to that of `peaks`, whose peak is at most `limit` bytes.

    It is on the line between the two batches around it. Beyond the largest batch there is no such
    line: where memory is short, XLA computes more again. 0 if no batch fits.
    """
    points = sorted(peaks.items())
    if limit >= points[-1][1]:
        return points[-1][0]
    pairs = itertools.pairwise(points)
    (one, low), (other, high) = next(pair for pair in pairs if limit < pair[1][1])
    return max(0, int((limit - low) * (other - one) / (high - low) + one))


def table(result: Result) -> Table:
    """Return the result as a table, in Markdown."""
    options = result["options"]
    title = f"{options['preset']}, T={options['seq_len']}\n{report.title(result)}"
    shown = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for name in ("twin", "dtype", "fast ops"):
        shown.add_column(name, no_wrap=True)
    heads = [f"B={size}" for size in options["batch_size"]]
    for head in (*heads, *(f"B in {size:g} GB" for size in options["fits"])):
        shown.add_column(head, justify="right", no_wrap=True)
    for found in result["programs"]:
        if "error" not in found:
            peaks = [f"{peak / 1e9:.1f}" for peak in found["peaks"]]
            fast = "yes" if found["fast_ops"] else "no"
            all_fit = max(options["batch_size"])
            largest = (f"{n}+" if n == all_fit else f"{n}" for n in found["largest_batches"])
            shown.add_row(found["name"], found["dtype"], fast, *peaks, *largest)
    return shown


def run(config: MemoryConfig, console: Console) -> Result:
    """Return the result. Raises `InputError` for sizes that the model lacks."""
    check_length(config.preset, PRESETS[config.preset], config.seq_len)
    result = report.new_result("memory", config)
    result["programs"] = [
        measure(name, dtype, fast_ops, config, console)
        for name in config.framework
        for dtype in config.dtype
        for fast_ops in (True, False)
    ]
    return result


def main() -> None:
    """Run the command line."""
    config = cli.parse(MemoryConfig, "benchmarks.memory")
    result = run(config, stderr_console())
    report.finish(result, [table(result)], config.out)


if __name__ == "__main__":
    cli.run(main)
