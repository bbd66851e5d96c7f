"""What a benchmark reports: a table, one line of JSON and, if a path is given, a file."""

from __future__ import annotations

import dataclasses
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.environment import describe
from gpt_common.errors import InputError
from gpt_common.storage import atomic_file

Result = dict[str, Any]


def new_result(benchmark: str, options: Any) -> Result:
    """Return the head of a result: benchmark, command, options and environment."""
    return {
        "benchmark": benchmark,
        "command": command_line(benchmark),
        "options": json.loads(json.dumps(dataclasses.asdict(options), default=str)),
        "environment": describe(),
    }


def command_line(benchmark: str) -> str:
    """Return the running command as a shell line."""
    return shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]])


def summary_in_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum, in milliseconds."""
    return {
        "median": 1000 * statistics.median(seconds),
        "min": 1000 * min(seconds),
        "max": 1000 * max(seconds),
    }


def finish(result: Result, tables: Sequence[Table], out: Path | None) -> None:
    """Print the tables, then the result as one line of JSON; write it to `out` if given.

    Raises `InputError` if every implementation failed.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width
    for table in tables:
        console.print(table)
    if out:
        write(result, out)
    print(json.dumps(result))
    programs = result.get("programs", [])
    if programs and all("error" in program for program in programs):
        raise InputError(f"every implementation failed, the first: {programs[0]['error']}")


def write(result: Result, out: Path) -> None:
    """Write a result to a file, atomically."""
    with atomic_file(out) as part:
        part.write_text(json.dumps(result, indent=1) + "\n")


def read(path: Path) -> Result:
    """Return a result that `write` wrote. Raises `InputError` for any other file."""
    try:
        result = json.loads(path.read_text())
        if "benchmark" in result:
            return result
    except (ValueError, TypeError):
        pass
    raise InputError(f"{path}: expected the result of a benchmark")


def title(result: Result) -> str:
    """Return hardware, versions and date, for the title of a table or the foot of a plot."""
    found = result["environment"]
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "jax") if name in found)
    return f"{hardware(result)} | {versions} | {found['date']}"


def hardware(result: Result) -> str:
    """Return the name of the GPU, or of the processor if there is none."""
    return result["environment"].get("gpu") or result["environment"]["processor"]


def speed_up_heads(baselines: Sequence[str]) -> list[str]:
    """Return the column heads of the speed-ups over Hugging Face's models."""
    return [f"vs {name.replace('huggingface', 'HF')}" for name in baselines]


def percent(share: float | None) -> str:
    """Return a share as text in percent, empty for None."""
    return "" if share is None else f"{100 * share:.0f} %"


def gigabytes(size: float) -> str:
    """Return bytes as text in GB."""
    return f"{size / 1e9:.2f} GB"
