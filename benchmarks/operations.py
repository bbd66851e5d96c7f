"""Time each fast operation against the plain one that it replaces, forward and backward.

python -m benchmarks.operations --out benchmarks/results/operations.json
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.candidate import stderr_console
from benchmarks.implementations import BY_NAME
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.report import Result
from benchmarks.spec import Spec, check_length
from gpt_common import cli
from gpt_common.config import PRESETS, Device, Preset
from gpt_common.errors import InputError, require_positive

Kind = Literal["linear", "GELU", "attention", "loss", "matmul", "decode", "sample"]
Seconds = dict[str, dict[str, list[float]]]  # by implementation, "plain" or "fast", and by pass


@dataclass(frozen=True)
class OperationsConfig:
    """Time each fast operation against the plain one that it replaces, forward and backward.

    Training at every T, generation at T=1; linear layers are the four of a transformer layer. Plain
    and fast passes are interleaved, and the speed-up is the median of the rounds' ratios. The table
    is Markdown, and the last line of the output is one JSON object.
    """

    framework: tuple[Literal["torch", "flax"], ...] = ("torch", "flax")
    """One or both twins."""
    operation: tuple[Kind, ...] = ()
    """Only these, if any are given; attention and loss are those that a GPU has fast ones for."""
    device: Device = "auto"
    """auto takes cuda, else mps (PyTorch only), else cpu."""
    dtype: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """The dtype that matrix products compute in; one or both."""
    preset: Preset = "gpt2"
    """Named model configuration, whose sizes the operations have."""
    batch_size: int = 4
    """Sequences in a batch (B)."""
    seq_len: tuple[int, ...] = (256, 1024)
    """Tokens in a sequence (T); one or more lengths to measure."""
    rounds: int = 5
    """How often each is measured."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result to a file."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "rounds"):
            require_positive(name, getattr(self, name))
        for length in self.seq_len:
            require_positive("seq_len above 1", length - 1)

    def wants(self, name: str) -> bool:
        """Whether an operation of this name is to be timed."""
        return not self.operation or any(kind in name for kind in self.operation)

    def specs(self) -> Iterator[Spec]:
        """Yield a spec for training at every dtype and length, and for generation at T=1."""
        for dtype in self.dtype:
            for length in (*self.seq_len, 1):
                yield Spec(PRESETS[self.preset], "", self.device, dtype, self.batch_size, length)


def measure(
    framework: str, spec: Spec, config: OperationsConfig, console: Console
) -> Iterator[Result]:
    """Yield the result of each of a twin's operations; a worker that fails gives an error."""
    head = {"name": framework, "dtype": spec.dtype, "seq_len": spec.seq_len}
    command = [sys.executable, "-m", "benchmarks.workers.operation", f"{framework}_operations"]
    with WorkerProcess(command, BY_NAME[framework].environ) as worker:
        try:
            names = worker.ask("names", spec=spec.as_dict())
        except WorkerError as error:
            yield head | failure(error, framework, console)
            return
        for name in filter(config.wants, names):
            label = f"{framework}: {name}, {spec.dtype}, T={spec.seq_len}"
            try:
                with console.status(label):
                    answer = worker.ask("measure", name=name, rounds=config.rounds)
                figures = {"default": answer["default"], **summarise(answer["seconds"])}
            except WorkerError as error:
                figures = failure(error, label, console)
            yield head | {"operation": name} | figures


def failure(error: WorkerError, label: str, console: Console) -> Result:
    """Print an error and return it in the form of a result."""
    console.print(f"{label}: {error}")
    return {"error": str(error)}


def summarise(seconds: Seconds) -> Result:
    """Return the milliseconds of each pass, and the speed-up: the median of the rounds' ratios."""
    plain, fast = seconds["plain"], seconds["fast"]
    return {
        "plain": {name: report.summary_in_ms(found) for name, found in plain.items()},
        "fast": {name: report.summary_in_ms(found) for name, found in fast.items()},
        "speed_up": {
            name: statistics.median(p / f for p, f in zip(plain[name], fast[name], strict=True))
            for name in plain
        },
    }


def table(result: Result) -> Table:
    """Return the result as a table, in Markdown."""
    shown = Table(title=headline(result), title_justify="left", box=box.MARKDOWN)
    for name in ("twin", "operation", "dtype"):
        shown.add_column(name, no_wrap=True)
    heads = ("T", "plain: fwd", "fast: fwd", "plain: fwd+bwd", "fast: fwd+bwd")
    for head in (*heads, "speed-up", "default"):
        shown.add_column(head, justify="right", no_wrap=True)
    for found in result["programs"]:
        if "error" not in found:
            shown.add_row(*row(found))
    return shown


def headline(result: Result) -> str:
    """Return a title: model, batch size and unit, then the environment."""
    options = result["options"]
    return f"{options['preset']}, B={options['batch_size']}, ms\n{report.title(result)}"


def row(found: Result) -> list[str]:
    """Return an operation's result as the cells of a row."""
    total = list(found["speed_up"])[-1]  # with the backward pass, if there is one
    cells = [
        three_digits(found[kind][name]["median"]) if name in found[kind] else ""
        for name in ("forward", "forward_backward")
        for kind in ("plain", "fast")
    ]
    return [
        found["name"],
        found["operation"],
        found["dtype"],
        f"{found['seq_len']}",
        *cells,
        f"{found['speed_up'][total]:.2f}x",
        "yes" if found["default"] else "no",
    ]


def three_digits(value: float) -> str:
    """Return a positive number with three significant digits."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def run(config: OperationsConfig, console: Console) -> Result:
    """Return the result.

    Raises `InputError` if a sequence is longer than the model's context, or if there is no such
    operation.
    """
    check_length(config.preset, PRESETS[config.preset], max(config.seq_len))
    result = report.new_result("operations", config)
    result["programs"] = [
        found
        for framework in config.framework
        for spec in config.specs()
        for found in measure(framework, spec, config, console)
    ]
    if not result["programs"]:
        kinds, twins = " or ".join(config.operation), " or ".join(config.framework)
        raise InputError(f"operation {kinds}: {twins} has none on this device in this dtype")
    return result


def main() -> None:
    """Run the command line."""
    config = cli.parse(OperationsConfig, "benchmarks.operations")
    result = run(config, stderr_console())
    report.finish(result, [table(result)], config.out)


if __name__ == "__main__":
    cli.run(main)
