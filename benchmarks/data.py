"""Time the tokenizer and the loader, as a percentage of a training step.

python -m benchmarks.data --out benchmarks/results/data.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import report, train_step
from benchmarks.candidate import corpus, stderr_console
from benchmarks.implementations import select_implementations
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec, check_length
from benchmarks.train_step import Plan
from gpt_common import cli, tokenizer
from gpt_common.config import PRESETS, Device, Preset
from gpt_common.errors import require_positive

TINY_SHAKESPEARE_CHARACTERS = 1_115_394


@dataclass(frozen=True)
class DataBenchmarkConfig:
    """Time the tokenizer, on as much text as tiny Shakespeare has, and the batch loader.

    The last line of the output is one JSON object.
    """

    framework: Literal["torch", "flax"] = "torch"
    """The twin whose training step they are compared with."""
    device: Device = "auto"
    """auto takes cuda, else mps (PyTorch only), else cpu."""
    dtype: Dtype = "float32"
    """The dtype that matrix products compute in."""
    preset: Preset = "gpt2"
    """Named model configuration."""
    batch_size: int = 4
    """Sequences in a batch (B)."""
    seq_len: int = 256
    """Tokens in a sequence (T)."""
    rounds: int = 5
    """How often each is measured."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result to a file."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len", "rounds"):
            require_positive(name, getattr(self, name))


def seconds_each(call: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of each of `rounds` calls."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure_tokenizer(text: str, rounds: int) -> Result:
    """Return the time to encode a text: the first call, which builds the encoding, and the rest."""
    first = seconds_each(lambda: tokenizer.encode_corpus(text), 1)[0]
    times = report.summary_in_ms(seconds_each(lambda: tokenizer.encode_corpus(text), rounds))
    return {
        "characters": len(text),
        "tokens": len(tokenizer.encode_corpus(text)),
        "first_seconds": first,
        "milliseconds": times,
        "characters_per_second": 1000 * len(text) / times["median"],
    }


def measure_loader(spec: Spec, rounds: int) -> Result:
    """Return the time that the loader takes for a batch, called as the trainer calls it."""
    loader = spec.loader()
    times = report.summary_in_ms(seconds_each(lambda: loader.next_batches(1), 100 * rounds))
    rate = 1000 * spec.tokens_per_step / times["median"]
    return {"milliseconds": times, "tokens_per_second": rate}


def run(config: DataBenchmarkConfig, console: Console) -> Result:
    """Return the result. Raises `InputError` if a sequence is longer than the model's context."""
    model = PRESETS[config.preset]
    check_length(config.preset, model, config.seq_len)
    result = report.new_result("data", config)
    shared = ("device", "dtype", "batch_size", "seq_len")
    with corpus() as tokens:
        spec = Spec(model, tokens, **{name: getattr(config, name) for name in shared})
        plan = Plan(steps=2, rounds=1, warmup=1)
        implementations = select_implementations([config.framework])
        (step,) = train_step.measure(implementations, spec, plan, console, peaks=False)
        result["loader"] = measure_loader(spec, config.rounds)
    result["tokenizer"] = measure_tokenizer(tiny_shakespeare_sized_text(), config.rounds)
    result["programs"] = [step]
    if "error" not in step:
        milliseconds = step["milliseconds"]["median"]
        for part in ("loader", "tokenizer"):
            result[part]["share_of_step"] = result[part]["milliseconds"]["median"] / milliseconds
    return result


def tiny_shakespeare_sized_text() -> str:
    """Return the beginning of the bundled text, as long as tiny Shakespeare."""
    text = (resources.files("gpt_common") / "assets" / "shakespeare.txt").read_text("utf-8")
    return text[:TINY_SHAKESPEARE_CHARACTERS]


def table(result: Result) -> Table:
    """Return the result as a table."""
    shown = Table("part", title=report.title(result), box=None)
    for head in ("median ms", "min", "max", "% of a training step"):
        shown.add_column(head, justify="right")
    parts = {"loader, one batch": "loader", "tokenizer, the whole text": "tokenizer"}
    for words, part in parts.items():
        times, share = result[part]["milliseconds"], result[part].get("share_of_step")
        cells = [f"{times[name]:,.3f}" for name in ("median", "min", "max")]
        shown.add_row(words, *cells, "" if share is None else f"{100 * share:.3f} %")
    return shown


def main() -> None:
    """Run the command line."""
    config = cli.parse(DataBenchmarkConfig, "benchmarks.data")
    result = run(config, stderr_console())
    report.finish(result, [table(result)], config.out)


if __name__ == "__main__":
    cli.run(main)
