"""Time conversions to every format and back, and the memory that they need.

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
from benchmarks.process import Worker, WorkerError
from benchmarks.report import Result
from benchmarks.trial import stderr_console
from gpt_common import cli
from gpt_common.config import PRESETS, Preset
from gpt_common.errors import InputError
from gpt_common.formats.registry import FORMATS

HUB = "huggingface"
COMMAND = [sys.executable, "-m", "benchmarks.subjects.conversion"]
ENDINGS = {"torch": ".pt", "flax": ".msgpack", "huggingface-flax": ".msgpack", "llmc": ".bin"}


@dataclass(frozen=True)
class ConvertBenchmarkConfig:
    """Time conversions from the Hugging Face folder to every format and back.

    Each has a process of its own, whose memory counts the pages of files that it maps. The last
    line of the output is one JSON object.
    """

    preset: Preset = "gpt2"
    """The shape of the model, whose weights are random."""
    format: tuple[str, ...] = ()
    """Formats to write and read; by default all that can be written."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result."""

    def __post_init__(self) -> None:
        written = [name for name, form in FORMATS.items() if form.write]
        for name in self.format:
            if name not in written:
                raise InputError(f"format: expected one of {', '.join(written)}, got {name}")


def in_a_process(call: str, **arguments: Any) -> Any:
    """Return what a new process answers. Raises `WorkerError`."""
    with Worker(COMMAND, os.environ) as worker:
        return worker.ask(call, **arguments)


def measure(config: ConvertBenchmarkConfig, folder: Path, console: Console) -> list[Result]:
    """Return the figures of each format, to it and back."""
    results = []
    for name in config.format or [name for name, form in FORMATS.items() if form.write]:
        # nanoGPT's models compute the erf GELU, the others' here the tanh form
        activation = "gelu" if name == "nanogpt" else "gelu_new"
        source = folder / activation
        model = dataclasses.asdict(PRESETS[config.preset]) | {"activation": activation}
        try:
            if not source.exists():
                in_a_process("make", path=str(source), model=model)
            with console.status(name), tempfile.TemporaryDirectory(dir=folder) as place:
                results.append(there_and_back(name, source, Path(place)))
        except WorkerError as error:
            console.print(f"{name}: {error}")
            results.append({"name": name, "error": str(error)})
    return results


def there_and_back(name: str, source: Path, place: Path) -> Result:
    """Return the figures of one format."""
    written, back = place / f"model{ENDINGS.get(name, '')}", place / "back"
    arguments = {"source": str(source), "destination": str(written), "to": name}
    to = in_a_process("run", **arguments)
    arguments = {"source": str(written), "destination": str(back), "to": HUB}
    return {"name": name, "to": to, "back": in_a_process("run", **arguments)}


def table(result: Result) -> Table:
    """Return the result as a table."""
    head = f"{result['options']['preset']}: {report.gigabytes(result['bytes'])} of weights\n"
    shown = Table("format", title=head + report.title(result), box=None)
    for column in ("to it", "memory", "back", "memory"):
        shown.add_column(column, justify="right")
    for found in result["programs"]:
        if "error" not in found:
            ways = (found["to"], found["back"])
            cells = [
                cell
                for way in ways
                for cell in (f"{way['seconds']:.2f} s", report.gigabytes(way["peak_memory"]))
            ]
            shown.add_row(found["name"], *cells)
    return shown


def run(config: ConvertBenchmarkConfig, console: Console) -> Result:
    """Measure as the options say."""
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
