"""Measure the time and peak memory of conversions to every format and back.

python -m benchmarks.convert --preset gpt2 --out benchmarks/results/convert.json
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.candidate import stderr_console
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.report import Result
from gpt_common import cli
from gpt_common.config import PRESETS, Preset
from gpt_common.errors import InputError
from gpt_common.formats.registry import FORMATS

SOURCE_FORMAT = "huggingface"
COMMAND = [sys.executable, "-m", "benchmarks.workers.conversion"]
SUFFIXES = {"torch": ".pt", "flax": ".msgpack", "huggingface-flax": ".msgpack", "llmc": ".bin"}


@dataclass(frozen=True)
class ConvertBenchmarkConfig:
    """Time conversions from the Hugging Face folder to every format and back.

    Each runs in a separate process, whose peak memory includes the pages of memory-mapped files.
    The last line of the output is one JSON object.
    """

    preset: Preset = "gpt2"
    """Named model configuration; the weights are random."""
    format: tuple[str, ...] = ()
    """Formats to write and read; by default every writable one."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result to a file."""

    def __post_init__(self) -> None:
        written = [name for name, form in FORMATS.items() if form.write]
        for name in self.format:
            if name not in written:
                raise InputError(f"format: expected one of {', '.join(written)}, got {name}")


def call_in_new_process(call: str, **arguments: Any) -> Any:
    """Return the answer of a new worker process. Raises `WorkerError`."""
    with WorkerProcess(COMMAND, os.environ) as worker:
        return worker.ask(call, **arguments)


def measure(config: ConvertBenchmarkConfig, folder: Path, console: Console) -> list[Result]:
    """Return the time and memory of each format, written and read back."""
    results = []
    for name in config.format or [name for name, form in FORMATS.items() if form.write]:
        # nanoGPT's models compute the erf GELU, the others' here the tanh form
        activation = "gelu" if name == "nanogpt" else "gelu_new"
        source = folder / activation
        model = dataclasses.asdict(PRESETS[config.preset]) | {"activation": activation}
        try:
            if not source.exists():
                call_in_new_process("make", path=str(source), model=model)
            with console.status(name), tempfile.TemporaryDirectory(dir=folder) as scratch:
                results.append(measure_round_trip(name, source, Path(scratch)))
        except WorkerError as error:
            console.print(f"{name}: {error}")
            results.append({"name": name, "error": str(error)})
    return results


def measure_round_trip(name: str, source: Path, folder: Path) -> Result:
    """Return the time and memory of one format, written to `folder` and read back."""
    written, back = folder / f"model{SUFFIXES.get(name, '')}", folder / "back"
    arguments = {"source": str(source), "destination": str(written), "to": name}
    to = call_in_new_process("run", **arguments)
    arguments = {"source": str(written), "destination": str(back), "to": SOURCE_FORMAT}
    return {"name": name, "to": to, "back": call_in_new_process("run", **arguments)}


def table(result: Result) -> Table:
    """Return the result as a table."""
    head = f"{result['options']['preset']}: {report.gigabytes(result['bytes'])} of weights\n"
    shown = Table("format", title=head + report.title(result), box=None)
    for column in ("write", "memory", "read back", "memory"):
        shown.add_column(column, justify="right")
    for found in result["programs"]:
        if "error" not in found:
            directions = (found["to"], found["back"])
            cells = [
                cell
                for each in directions
                for cell in (f"{each['seconds']:.2f} s", report.gigabytes(each["peak_memory"]))
            ]
            shown.add_row(found["name"], *cells)
    return shown


def run(config: ConvertBenchmarkConfig, console: Console) -> Result:
    """Return the result of every format."""
    result = report.new_result("convert", config)
    with tempfile.TemporaryDirectory() as folder:
        result["programs"] = measure(config, Path(folder), console)
        weights = Path(folder, "gelu_new", "model.safetensors")
        result["bytes"] = weights.stat().st_size if weights.exists() else 0
    return result


def main() -> None:
    """Run the command line."""
    config = cli.parse(ConvertBenchmarkConfig, "benchmarks.convert")
    result = run(config, stderr_console())
    report.finish(result, [table(result)], config.out)


if __name__ == "__main__":
    cli.run(main)
