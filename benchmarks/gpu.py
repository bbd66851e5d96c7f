"""The whole of it on one GPU: both ladders, the largest batch, and generation.

make benchmark-gpu
python -m benchmarks.gpu --device cpu --preset tiny    # the rehearsal, without a GPU
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import generate, report, train_step
from benchmarks.generate import GenerateBenchmarkConfig
from benchmarks.plot import draw
from benchmarks.programs import BY_NAME, Program
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec
from benchmarks.train_step import Plan
from benchmarks.trial import corpus, stderr_console
from gpt_common import cli
from gpt_common.config import PRESETS, Device, Preset
from gpt_common.errors import InputError, require_positive
from gpt_common.metrics import flops_per_token

SEQ_LEN = 1024
LADDER_BATCH = 16  # the lecture's
BATCHES = (64, 32, 16, 8, 4, 2, 1)
PLAN = Plan(steps=10, rounds=1, warmup=3, sequential=True)
REHEARSAL = Plan(steps=2, rounds=1, warmup=0, sequential=True)


@dataclass(frozen=True)
class GpuConfig:
    """Measure training and generation on one GPU, step by step as in the lecture.

    A step that fails, or for which no time is left, is reported, and the others go on.
    """

    device: Device = "cuda"
    """cpu is for a rehearsal."""
    preset: Preset = "gpt2"
    """A named shape; tiny is for a rehearsal."""
    minutes: float = 9.0
    """Start nothing new after so long."""
    timeout: float = 180.0
    """Seconds that a program has for one answer, its compilation included."""
    out: Path = Path("benchmarks/results/gpu")
    """Folder of results and figures."""

    def __post_init__(self) -> None:
        require_positive("minutes", self.minutes)
        require_positive("timeout", self.timeout)


@dataclass(frozen=True)
class Rung:
    """One step of a ladder: a program, and how it computes."""

    label: str
    framework: str
    dtype: Dtype
    compile: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def ladders() -> list[Rung]:
    """Return the lecture's ladder in both twins, and in the peer.

    Flash attention, the padded vocabulary and fused AdamW are always on in `gpt_torch`. What each
    of them brings is seen in the peer, where they can be switched. `gpt_flax` is always compiled.
    """
    eager = {"attention": "eager", "fused": False}
    flash = {"attention": "sdpa", "fused": False}
    return [
        Rung("float32", "torch", "float32"),
        Rung("TF32", "torch", "tf32"),
        Rung("bfloat16", "torch", "bfloat16"),
        Rung("+ compile", "torch", "bfloat16", True),
        Rung("float32", "flax", "float32"),
        Rung("TF32", "flax", "tf32"),
        Rung("bfloat16", "flax", "bfloat16"),
        Rung("float32", "huggingface", "float32", False, eager),
        Rung("TF32", "huggingface", "tf32", False, eager),
        Rung("bfloat16", "huggingface", "bfloat16", False, eager),
        Rung("+ compile", "huggingface", "bfloat16", True, eager),
        Rung("+ flash attention", "huggingface", "bfloat16", True, flash),
        Rung("+ padded vocabulary", "huggingface", "bfloat16", True, flash | {"padded": True}),
        Rung("+ fused AdamW", "huggingface", "bfloat16", True, {"padded": True, "fused": True}),
    ]


BEST = (
    Rung("torch, best", "torch", "bfloat16", True),
    Rung("flax, best", "flax", "bfloat16"),
    Rung("huggingface, best", "huggingface", "bfloat16", True, {"padded": True, "fused": True}),
)


class Clock:
    """What time is left."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def is_up(self) -> bool:
        """Whether nothing new should start."""
        return time.monotonic() > self._end


class Bench:
    """Measures rungs, each in a process of its own."""

    def __init__(self, config: GpuConfig, console: Console, tokens: str) -> None:
        self.config, self.console, self._tokens = config, console, tokens
        self.model = PRESETS[config.preset]
        self.clock = Clock(config.minutes)

    @property
    def rehearsal(self) -> bool:
        """Whether there is no GPU, and the figures mean nothing."""
        return self.config.device == "cpu"

    def rung(self, rung: Rung, batches: tuple[int, ...]) -> Result:
        """Return the figures of a rung at the first of the batch sizes that fits into memory."""
        head = {"label": rung.label, "framework": rung.framework, "dtype": rung.dtype}
        if self.clock.is_up():
            return head | {"name": rung.framework, "error": "no time was left"}
        if self.rehearsal and rung.dtype == "tf32":
            return head | {"name": rung.framework, "error": "a CPU has no TF32"}
        for batch_size in batches:
            self.console.print(f"{rung.framework}: {rung.label}, B={batch_size}")
            result = self._measure(rung, batch_size)
            if not result.get("out_of_memory"):
                break
        return head | {"batch_size": batch_size} | result

    def _measure(self, rung: Rung, batch_size: int) -> Result:
        spec = Spec(
            model=self.model,
            tokens=self._tokens,
            device=self.config.device,
            dtype=rung.dtype,
            batch_size=batch_size,
            seq_len=min(SEQ_LEN, self.model.block_size),
            compile=rung.compile and not self.rehearsal,  # on a CPU it takes a minute
            settings=rung.settings,
        )
        program = BY_NAME[rung.framework]
        plan = REHEARSAL if self.rehearsal else PLAN
        timeout = self.config.timeout
        return train_step.measure([program], spec, plan, self.console, timeout)[0]


def climb(bench: Bench) -> Iterator[Result]:
    """Yield the figures of all rungs, at one batch size: the largest, up to 16, that all fit in.

    A rung for which it is too large makes it smaller for those that follow.
    """
    sizes = tuple(size for size in BATCHES if size <= LADDER_BATCH)
    if bench.rehearsal:
        sizes = (2, 1)
    for rung in ladders():
        result = bench.rung(rung, sizes)
        yield result
        if "error" not in result:
            sizes = tuple(size for size in sizes if size <= result["batch_size"])


def generation(bench: Bench, dtype: Dtype) -> Result:
    """Return the figures of generation, one program after the other."""
    config = GenerateBenchmarkConfig(
        device=bench.config.device,
        dtype=dtype,
        preset=bench.config.preset,
        batch_size=(1, 2) if bench.rehearsal else (1, 32),
        prompt_length=(4,) if bench.rehearsal else (64,),
        new_tokens=4 if bench.rehearsal else 128,
        rounds=1 if bench.rehearsal else 2,
        sequential=True,
    )
    result = report.new_result("generate", config)
    result["step_bytes"] = generate.step_bytes(bench.model, dtype)
    programs: list[Program] = [BY_NAME[name] for name in ("torch", "flax", "huggingface")]
    results = []
    for program in programs:
        if bench.clock.is_up():
            results.append({"name": program.name, "error": "no time was left"})
        else:
            timeout = bench.config.timeout
            results += generate.measure(config, [program], bench.console, timeout)
    generate.compare(results)
    return result | {"programs": results}


def run(config: GpuConfig, console: Console) -> list[Result]:
    """Measure all, the most telling first; write each result as soon as it is there."""
    result = report.new_result("gpu", config)
    with corpus() as tokens:
        bench = Bench(config, console, tokens)
        result["seq_len"] = min(SEQ_LEN, bench.model.block_size)
        per_token = flops_per_token(bench.model, result["seq_len"])
        result["flops"] = {"formula": train_step.FORMULA, "per_token": per_token}
        sizes = (2, 1) if bench.rehearsal else BATCHES
        result["best"] = [bench.rung(rung, sizes) for rung in BEST]
        train_step.compare(result["best"])
        keep(result, config.out, "gpu", console)
        sampled = generation(bench, "bfloat16")
        keep(sampled, config.out, "gpu_generate", console)
        result["ladder"] = list(climb(bench))
        keep(result, config.out, "gpu", console)
    return [result, sampled]


def keep(result: Result, folder: Path, name: str, console: Console) -> None:
    """Write a result and its figure; a figure that cannot be drawn is said and no more."""
    report.write(result, folder / f"{name}.json")
    try:
        draw([result], folder / f"{name}.png")
    except InputError as error:
        console.print(f"{name}.png: {error}")


def tables(result: Result) -> list[Table]:
    """Return the rungs, and the largest batches, as tables."""
    return [
        rung_table(f"T={result['seq_len']}: {words}", result[part])
        for part, words in (("ladder", "the ladder"), ("best", "the largest batch that fits"))
    ]


def rung_table(title: str, results: list[Result]) -> Table:
    """Return rungs as a table; those that failed with their reason."""
    shown = Table("framework", "step", title=title, title_justify="left", box=None)
    for head in ("B", "ms a step", "tokens/s", "of peak", "of sheet", "memory"):
        shown.add_column(head, justify="right", no_wrap=True)
    for result in results:
        cells = [result["error"][:60]] if "error" in result else rung_cells(result)
        shown.add_row(result["framework"], result["label"], *cells)
    return shown


def rung_cells(result: Result) -> list[str]:
    """Return a rung's figures as the cells of a row."""
    shares = ("share_of_matmul_peak", "share_of_datasheet_peak")
    return [
        f"{result['batch_size']}",
        f"{result['milliseconds']['median']:,.1f}",
        f"{result['tokens_per_second']:,.0f}",
        *(report.percent(result.get(share)) for share in shares),
        report.gigabytes(result["peak_memory"]),
    ]


def main() -> None:
    """Run the command line."""
    config = cli.parse(GpuConfig, "gpu")
    result, sampled = run(config, stderr_console())
    shown = [*tables(result), generate.table(generate.headline(sampled), sampled["programs"])]
    everything = result | {"programs": result["best"] + result["ladder"], "generate": sampled}
    report.finish(everything, shown, None)


if __name__ == "__main__":
    cli.run(main)
