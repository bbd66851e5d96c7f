"""Every benchmark on one GPU: the lecture's optimisations, the largest batch, and generation.

make benchmark-gpu
python -m benchmarks.gpu --device cpu --preset tiny    # a dry run, without a GPU
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import environment, generate, report, train_step
from benchmarks.candidate import Candidate, corpus, stderr_console
from benchmarks.generate import GenerateBenchmarkConfig
from benchmarks.implementations import BASELINE, BY_NAME
from benchmarks.plot import draw
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec, flops_per_token
from benchmarks.train_step import Plan
from gpt_common import cli
from gpt_common.config import PRESETS, Device, Preset
from gpt_common.errors import InputError, require_positive

SEQ_LEN = 1024
LECTURE_BATCH_SIZE = 16
BATCH_SIZES = [64, 32, 16, 8, 4, 2, 1]
DRY_RUN_BATCH_SIZES = [2, 1]
FRAMEWORKS = ("torch", "flax", BASELINE)
PLAN = Plan(steps=10, rounds=1, warmup=3, sequential=True)
DRY_RUN = Plan(steps=2, rounds=1, warmup=0, sequential=True)


@dataclass(frozen=True)
class GpuConfig:
    """Measure training and generation on one GPU, optimisation by optimisation as in the lecture.

    A variant that fails, or that the time limit skips, is reported, and the others continue.
    """

    device: Device = "cuda"
    """cpu is for a dry run."""
    preset: Preset = "gpt2"
    """Named model configuration; tiny is for a dry run."""
    minutes: float = 7.0
    """Time limit after which no further measurement starts."""
    timeout: float = 180.0
    """Seconds within which an implementation must answer a request, compilation included."""
    out: Path = Path("benchmarks/results/gpu")
    """Folder of results and plots."""

    def __post_init__(self) -> None:
        require_positive("minutes", self.minutes)
        require_positive("timeout", self.timeout)


@dataclass(frozen=True)
class Variant:
    """One variant of training: an implementation, its dtype and its optimisations."""

    label: str
    framework: str
    dtype: Dtype
    compile: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def variants() -> list[Variant]:
    """Return the lecture's optimisations in order, for both twins and for the baseline.

    Flash attention, the padded vocabulary and fused AdamW are always on in `gpt_torch`: only the
    baseline, where they are options, shows the speed-up of each. `gpt_flax` is always compiled.
    """
    eager = {"attention": "eager", "fused": False}
    flash = {"attention": "sdpa", "fused": False}
    return [
        Variant("float32", "torch", "float32"),
        Variant("TF32", "torch", "tf32"),
        Variant("bfloat16", "torch", "bfloat16"),
        Variant("+ compile", "torch", "bfloat16", True),
        Variant("float32", "flax", "float32"),
        Variant("TF32", "flax", "tf32"),
        Variant("bfloat16", "flax", "bfloat16"),
        Variant("float32", BASELINE, "float32", False, eager),
        Variant("TF32", BASELINE, "tf32", False, eager),
        Variant("bfloat16", BASELINE, "bfloat16", False, eager),
        Variant("+ compile", BASELINE, "bfloat16", True, eager),
        Variant("+ flash attention", BASELINE, "bfloat16", True, flash),
        Variant("+ padded vocabulary", BASELINE, "bfloat16", True, flash | {"padded": True}),
        Variant("+ fused AdamW", BASELINE, "bfloat16", True, {"padded": True, "fused": True}),
    ]


def is_measured_first(variant: Variant) -> bool:
    """Whether a variant is measured before the baseline's intermediate ones."""
    return variant.framework != BASELINE or variant == variants()[-1]


class Deadline:
    """A time limit, which starts now."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def has_passed(self) -> bool:
        """Whether the time limit has been reached."""
        return time.monotonic() > self._end


class Runner:
    """Measures variants, each in a separate process."""

    def __init__(self, config: GpuConfig, console: Console, tokens: str) -> None:
        self.config, self.console, self._tokens = config, console, tokens
        self.model = PRESETS[config.preset]
        self.seq_len = min(SEQ_LEN, self.model.block_size)
        self.deadline = Deadline(config.minutes)
        self.unavailable = {
            framework: self.reason_unavailable(framework) for framework in FRAMEWORKS
        }

    @property
    def dry_run(self) -> bool:
        """Whether this is a dry run on a CPU, whose figures mean nothing."""
        return self.config.device == "cpu"

    def reason_unavailable(self, framework: str) -> str:
        """Return why a framework cannot compute on the device; an empty string if it can."""
        with Candidate(BY_NAME[framework], self.console, self.config.timeout) as candidate:
            candidate.ask("device", name=self.config.device, dtype="float32")
            return candidate.error

    def measure(self, variant: Variant, batch_sizes: Sequence[int]) -> Result:
        """Return the result of a variant at the first of `batch_sizes` that fits in memory."""
        head = {"name": variant.framework, "label": variant.label, "dtype": variant.dtype}
        if error := self._reason_to_skip(variant):
            return head | {"error": error}
        for batch_size in batch_sizes:
            self.console.print(f"{variant.framework}: {variant.label}, B={batch_size}")
            result = self._measure(variant, batch_size)
            if not result.get("out_of_memory"):
                break
        return head | {"batch_size": batch_size} | result

    def time_is_up(self) -> str:
        """Return the error of a measurement that the time limit skips, else an empty string."""
        return "skipped: the time limit was reached" if self.deadline.has_passed() else ""

    def _reason_to_skip(self, variant: Variant) -> str:
        if self.unavailable[variant.framework]:
            return self.unavailable[variant.framework]
        if self.dry_run and variant.dtype == "tf32":
            return "a CPU has no TF32"
        return self.time_is_up()

    def _measure(self, variant: Variant, batch_size: int) -> Result:
        spec = Spec(
            model=self.model,
            tokens=self._tokens,
            device=self.config.device,
            dtype=variant.dtype,
            batch_size=batch_size,
            seq_len=self.seq_len,
            compile=variant.compile and not self.dry_run,  # on a CPU it takes a minute
            settings=variant.settings,
        )
        implementation = BY_NAME[variant.framework]
        plan = DRY_RUN if self.dry_run else PLAN
        timeout = self.config.timeout
        return train_step.measure([implementation], spec, plan, self.console, timeout)[0]


def measure_variants(runner: Runner, variants: Iterable[Variant]) -> list[Result]:
    """Return the results of variants, at the largest batch size up to the lecture's that fits.

    A variant that runs out of memory lowers the batch size for the ones after it.
    """
    sizes = [size for size in BATCH_SIZES if size <= LECTURE_BATCH_SIZE]
    if runner.dry_run:
        sizes = DRY_RUN_BATCH_SIZES
    results = []
    for variant in variants:
        results.append(runner.measure(variant, sizes))
        if "error" not in results[-1]:
            sizes = [size for size in sizes if size <= results[-1]["batch_size"]]
    return results


def measure_largest_batches(runner: Runner, measured: Sequence[Result]) -> list[Result]:
    """Return the result of each framework's last variant at the largest batch that fits.

    `measured` are its results at the lecture's batch size.
    """
    results = []
    for framework in FRAMEWORKS:
        variant = [variant for variant in variants() if variant.framework == framework][-1]
        known = [result for result in measured if result["name"] == framework][-1]
        sizes = batch_sizes_to_try(known, environment.gpu_bytes(), runner.dry_run)
        results.append(runner.measure(variant, sizes))
    train_step.add_speedups(results)
    return results


def batch_sizes_to_try(measured: Result, memory: float, dry_run: bool) -> list[int]:
    """Return the batch sizes that should fit in `memory` bytes, the largest first.

    They are estimated from a measured result, as memory grows at most linearly with the batch size
    and each failed attempt costs half a minute.
    """
    if dry_run:
        return DRY_RUN_BATCH_SIZES
    if "error" in measured:
        return [size for size in BATCH_SIZES if size <= LECTURE_BATCH_SIZE]
    per_sequence = measured["peak_memory"] / measured["batch_size"]
    return [size for size in BATCH_SIZES if size == 1 or size * per_sequence < 0.95 * memory]


def measure_generation(runner: Runner, dtype: Dtype) -> Result:
    """Return the result of generation, one implementation after the other."""
    config = GenerateBenchmarkConfig(
        device=runner.config.device,
        dtype=dtype,
        preset=runner.config.preset,
        batch_size=(1, 2) if runner.dry_run else (1, 32),
        prompt_length=(4,) if runner.dry_run else (64,),
        new_tokens=4 if runner.dry_run else 128,
        rounds=1 if runner.dry_run else 2,
    )
    result = report.new_result("generate", config) | {"command": report.command_line("gpu")}
    result["step_bytes"] = generate.weight_bytes(runner.model, dtype)
    results = []
    for name in FRAMEWORKS:
        if error := runner.unavailable[name] or runner.time_is_up():
            results.append({"name": name, "error": error})
        else:
            asked = ([BY_NAME[name]], runner.console, runner.config.timeout)
            results += generate.measure(config, *asked)
    generate.add_speedups(results)
    return result | {"programs": results}


def run(config: GpuConfig, console: Console) -> list[Result]:
    """Measure everything, the most important first; write each result as soon as it is complete.

    Raises `InputError` if no framework can compute on the device.
    """
    result = report.new_result("gpu", config)
    with corpus() as tokens:
        runner = Runner(config, console, tokens)
        if all(runner.unavailable.values()):
            hint = "--device cpu --preset tiny is a dry run"
            raise InputError(f"{runner.unavailable['torch']} ({hint})")
        result["seq_len"] = runner.seq_len
        per_token = flops_per_token(runner.model, runner.seq_len)
        result["flops"] = {"formula": train_step.FORMULA, "per_token": per_token}
        result["ladder"] = measure_variants(runner, filter(is_measured_first, variants()))
        write(result, config.out, "gpu", console)
        result["best"] = measure_largest_batches(runner, result["ladder"])
        write(result, config.out, "gpu", console)
        generated = measure_generation(runner, "bfloat16")
        write(generated, config.out, "gpu_generate", console)
        rest = measure_variants(runner, filterfalse(is_measured_first, variants()))
        result["ladder"] = [*result["ladder"][:-1], *rest, result["ladder"][-1]]
        write(result, config.out, "gpu", console)
    return [result, generated]


def write(result: Result, folder: Path, name: str, console: Console) -> None:
    """Write a result and its plot; if the plot fails, print why and continue."""
    report.write(result, folder / f"{name}.json")
    try:
        draw([result], folder / f"{name}.png")
    except InputError as error:
        console.print(f"{name}.png: {error}")


def tables(result: Result) -> list[Table]:
    """Return one table of the variants and one of the largest batches."""
    return [
        variant_table(f"T={result['seq_len']}: {words}", result[part])
        for part, words in (("ladder", "the variants"), ("best", "the largest batch that fits"))
    ]


def variant_table(title: str, results: list[Result]) -> Table:
    """Return variants as a table; a variant that failed shows its error."""
    shown = Table("framework", "variant", title=title, title_justify="left", box=None)
    for head in ("B", "ms/step", "tokens/s", "% of peak", "% of datasheet", "memory"):
        shown.add_column(head, justify="right", no_wrap=True)
    for result in results:
        cells = [result["error"][:60]] if "error" in result else variant_cells(result)
        shown.add_row(result["name"], result["label"], *cells)
    return shown


def variant_cells(result: Result) -> list[str]:
    """Return a variant's result as the cells of a row."""
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
    result, generated = run(config, stderr_console())
    shown = [*tables(result), generate.table(generate.headline(generated), generated["programs"])]
    everything = result | {"programs": result["best"] + result["ladder"], "generate": generated}
    report.finish(everything, shown, None)


if __name__ == "__main__":
    cli.run(main)
