"""The whole of it on one GPU: both ladders, the largest batch, and generation.

make benchmark-gpu
python -m benchmarks.gpu --device cpu --preset tiny    # the rehearsal, without a GPU
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import environment, generate, report, train_step
from benchmarks.generate import GenerateBenchmarkConfig
from benchmarks.plot import draw
from benchmarks.programs import BY_NAME, PEER
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec
from benchmarks.train_step import Plan
from benchmarks.trial import Trial, corpus, stderr_console
from gpt_common import cli
from gpt_common.config import PRESETS, Device, Preset
from gpt_common.errors import InputError, require_positive
from gpt_common.metrics import flops_per_token

SEQ_LEN = 1024
LADDER_BATCH = 16  # the lecture's
BATCHES = [64, 32, 16, 8, 4, 2, 1]
REHEARSAL_BATCHES = [2, 1]
FRAMEWORKS = ("torch", "flax", PEER)
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
    minutes: float = 7.0
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
        Rung("float32", PEER, "float32", False, eager),
        Rung("TF32", PEER, "tf32", False, eager),
        Rung("bfloat16", PEER, "bfloat16", False, eager),
        Rung("+ compile", PEER, "bfloat16", True, eager),
        Rung("+ flash attention", PEER, "bfloat16", True, flash),
        Rung("+ padded vocabulary", PEER, "bfloat16", True, flash | {"padded": True}),
        Rung("+ fused AdamW", PEER, "bfloat16", True, {"padded": True, "fused": True}),
    ]


def matters_most(rung: Rung) -> bool:
    """Whether a rung is measured before the peer's way to the top of its ladder."""
    return rung.framework != PEER or rung == ladders()[-1]


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
        self.seq_len = min(SEQ_LEN, self.model.block_size)
        self.clock = Clock(config.minutes)
        self.absent = {framework: self.missing(framework) for framework in FRAMEWORKS}

    @property
    def rehearsal(self) -> bool:
        """Whether there is no GPU, and the figures mean nothing."""
        return self.config.device == "cpu"

    def missing(self, framework: str) -> str:
        """Return why a framework cannot compute on the device; nothing where it can."""
        with Trial(BY_NAME[framework], self.console, self.config.timeout) as trial:
            trial.ask("device", name=self.config.device, dtype="float32")
            return trial.error

    def rung(self, rung: Rung, batches: Sequence[int]) -> Result:
        """Return the figures of a rung at the first of the batch sizes that fits into memory."""
        head = {"name": rung.framework, "label": rung.label, "dtype": rung.dtype}
        if error := self._hindrance(rung):
            return head | {"error": error}
        for batch_size in batches:
            self.console.print(f"{rung.framework}: {rung.label}, B={batch_size}")
            result = self._measure(rung, batch_size)
            if not result.get("out_of_memory"):
                break
        return head | {"batch_size": batch_size} | result

    def _hindrance(self, rung: Rung) -> str:
        if self.absent[rung.framework]:
            return self.absent[rung.framework]
        if self.rehearsal and rung.dtype == "tf32":
            return "a CPU has no TF32"
        return "no time was left" if self.clock.is_up() else ""

    def _measure(self, rung: Rung, batch_size: int) -> Result:
        spec = Spec(
            model=self.model,
            tokens=self._tokens,
            device=self.config.device,
            dtype=rung.dtype,
            batch_size=batch_size,
            seq_len=self.seq_len,
            compile=rung.compile and not self.rehearsal,  # on a CPU it takes a minute
            settings=rung.settings,
        )
        program = BY_NAME[rung.framework]
        plan = REHEARSAL if self.rehearsal else PLAN
        timeout = self.config.timeout
        return train_step.measure([program], spec, plan, self.console, timeout)[0]


def climb(bench: Bench, rungs: Sequence[Rung]) -> list[Result]:
    """Return the figures of rungs, at the largest batch size, up to the lecture's, that fits.

    A rung for which it is too large makes it smaller for those that follow.
    """
    sizes = REHEARSAL_BATCHES if bench.rehearsal else [b for b in BATCHES if b <= LADDER_BATCH]
    results = []
    for rung in rungs:
        results.append(bench.rung(rung, sizes))
        if "error" not in results[-1]:
            sizes = [size for size in sizes if size <= results[-1]["batch_size"]]
    return results


def largest_batches(bench: Bench, ladder: Sequence[Result]) -> list[Result]:
    """Return the figures of each framework's last rung again, at the largest batch that fits."""
    results = []
    for framework in FRAMEWORKS:
        rung = [rung for rung in ladders() if rung.framework == framework][-1]
        seen = [result for result in ladder if result["name"] == framework][-1]
        results.append(bench.rung(rung, promising(seen, environment.gpu_bytes(), bench.rehearsal)))
    train_step.compare(results)
    return results


def promising(seen: Result, memory: float, rehearsal: bool) -> list[int]:
    """Return the batch sizes that a GPU of `memory` bytes promises to hold, the largest first.

    Memory grows no faster than the batch: to find out by trying costs half a minute each time.
    """
    if rehearsal:
        return REHEARSAL_BATCHES
    if "error" in seen:
        return [batch for batch in BATCHES if batch <= LADDER_BATCH]
    per_row = seen["peak_memory"] / seen["batch_size"]
    return [batch for batch in BATCHES if batch == 1 or batch * per_row < 0.95 * memory]


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
    )
    result = report.new_result("generate", config) | {"command": report.command_line("gpu")}
    result["step_bytes"] = generate.step_bytes(bench.model, dtype)
    results = []
    for name in FRAMEWORKS:
        if error := bench.absent[name] or ("no time was left" if bench.clock.is_up() else ""):
            results.append({"name": name, "error": error})
        else:
            asked = ([BY_NAME[name]], bench.console, bench.config.timeout)
            results += generate.measure(config, *asked)
    generate.compare(results)
    return result | {"programs": results}


def run(config: GpuConfig, console: Console) -> list[Result]:
    """Measure all, the most telling first; write each result as soon as it is there.

    Raises `InputError` where no framework can compute on the device.
    """
    result = report.new_result("gpu", config)
    with corpus() as tokens:
        bench = Bench(config, console, tokens)
        if all(bench.absent.values()):
            raise InputError(f"{bench.absent['torch']} (--device cpu --preset tiny rehearses)")
        result["seq_len"] = bench.seq_len
        per_token = flops_per_token(bench.model, bench.seq_len)
        result["flops"] = {"formula": train_step.FORMULA, "per_token": per_token}
        first = [rung for rung in ladders() if matters_most(rung)]
        result["ladder"] = climb(bench, first)
        keep(result, config.out, "gpu", console)
        result["best"] = largest_batches(bench, result["ladder"])
        keep(result, config.out, "gpu", console)
        sampled = generation(bench, "bfloat16")
        keep(sampled, config.out, "gpu_generate", console)
        rest = climb(bench, [rung for rung in ladders() if not matters_most(rung)])
        result["ladder"] = [*result["ladder"][:-1], *rest, result["ladder"][-1]]
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
        shown.add_row(result["name"], result["label"], *cells)
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
    config = cli.parse(GpuConfig, "benchmarks.gpu")
    result, sampled = run(config, stderr_console())
    shown = [*tables(result), generate.table(generate.headline(sampled), sampled["programs"])]
    everything = result | {"programs": result["best"] + result["ladder"], "generate": sampled}
    report.finish(everything, shown, None)


if __name__ == "__main__":
    cli.run(main)
