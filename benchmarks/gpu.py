"""Everything on one GPU: parity, the lecture's optimisations, generation, the largest batch.

make benchmark-gpu
python -m benchmarks.gpu --device cpu --preset tiny    # a dry run, without a GPU
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import environment, generate, gpu_parity, gpu_report, report, train_step
from benchmarks.candidate import Candidate, candidates, corpus, stderr_console
from benchmarks.generate import GenerateBenchmarkConfig
from benchmarks.implementations import BASELINE, BY_NAME
from benchmarks.peaks import matmul_speeds
from benchmarks.plot import draw
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec
from benchmarks.train_step import Plan
from gpt_common import cli
from gpt_common.config import PRESETS, Device, Preset
from gpt_common.errors import InputError, require_positive
from gpt_common.flops import flops_per_token

SEQ_LEN = 1024
LECTURE_BATCH_SIZE = 16
BATCH_SIZES = [64, 32, 16, 8, 4, 2, 1]
DRY_RUN_BATCH_SIZES = [2, 1]
TWINS = ("torch", "flax")
FRAMEWORKS = (*TWINS, BASELINE)
PLAN = Plan(steps=10, rounds=1, warmup=3, sequential=True)
DRY_RUN = Plan(steps=2, rounds=1, warmup=0, sequential=True)
# When each part of the benchmark ends, of the time limit: what one leaves over, the next has.
ENDS = {"parity": 0.2, "fastest": 0.55, "generation": 0.75, "all": 1.0}
TIME_IS_UP = "the time limit was reached"
GPT2_SECONDS = 60.0  # in which the slow parity tests, of GPT-2 124M, can show something


@dataclass(frozen=True)
class GpuConfig:
    """Compare with the reference, then measure training and generation, on one GPU.

    Exit code 1 if parity is not shown for a framework that can compute on the GPU, or if none can.
    What fails, or what the time limit skips, is reported, and the rest continues.
    """

    device: Device = "cuda"
    """cpu is for a dry run."""
    preset: Preset = "gpt2"
    """Named model configuration; tiny is for a dry run."""
    minutes: float = 15.0
    """Time limit."""
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


def is_fastest(variant: Variant) -> bool:
    """Whether a variant has all optimisations of its framework."""
    return variant == last_variant(variant.framework)


def last_variant(framework: str) -> Variant:
    """Return the variant with all optimisations of a framework."""
    return [variant for variant in variants() if variant.framework == framework][-1]


class Deadline:
    """A time limit that starts now. As a number, it is the seconds that a request may take."""

    def __init__(self, seconds: float, timeout: float) -> None:
        self._end, self._timeout = time.monotonic() + seconds, timeout

    def left(self) -> float:
        """Return the seconds left."""
        return max(0.0, self._end - time.monotonic())

    def __float__(self) -> float:
        return max(1.0, min(self._timeout, self.left()))


class Runner:
    """Measures variants, each in a separate process."""

    def __init__(self, config: GpuConfig, console: Console, tokens: str) -> None:
        self.config, self.console, self._tokens = config, console, tokens
        self.model = PRESETS[config.preset]
        self.seq_len = min(SEQ_LEN, self.model.block_size)
        self._whole = Deadline(60 * config.minutes, config.timeout)
        self._matmuls: dict[Dtype, dict[str, float]] = {}  # FLOP/s, by dtype
        self.start_part("parity")
        self.frameworks = {name: self._describe(name) for name in FRAMEWORKS}

    @property
    def dry_run(self) -> bool:
        """Whether this is a dry run on a CPU, whose figures mean nothing."""
        return self.config.device == "cpu"

    def start_part(self, part: str) -> None:
        """Start the time limit of a part of the benchmark."""
        later = (1 - ENDS[part]) * 60 * self.config.minutes
        self.deadline = Deadline(self._whole.left() - later, self.config.timeout)

    def unavailable(self, framework: str) -> str:
        """Return why a framework cannot compute on the device; an empty string if it can."""
        return self.frameworks[framework].get("error", "")

    def _describe(self, framework: str) -> Result:
        """Return what a framework says of the GPU; an error if it cannot compute on the device."""
        with Candidate(BY_NAME[framework], self.console, self.deadline) as candidate:
            candidate.ask("device", name=self.config.device, dtype="float32")
            if candidate.error:
                return {"error": candidate.error}
            return candidate.ask("describe_gpu") or {}

    def measure(self, variant: Variant, batch_sizes: Sequence[int]) -> Result:
        """Return the result of a variant at the first of `batch_sizes` that fits in memory."""
        head = {"name": variant.framework, "label": variant.label, "dtype": variant.dtype}
        if error := self.reason_to_skip(variant.framework, variant.dtype):
            return head | {"error": error}
        for batch_size in batch_sizes:
            self.console.print(f"{variant.framework}: {variant.label}, B={batch_size}")
            result = self._measure(variant, batch_size)
            if not result.get("out_of_memory") or not self.deadline.left():
                break
        if "error" in result and not self.deadline.left():
            result["error"] = f"{TIME_IS_UP}: {result['error']}"
        return head | {"batch_size": batch_size} | result

    def reason_to_skip(self, framework: str, dtype: Dtype) -> str:
        """Return why a framework is not measured; an empty string if it is."""
        if self.unavailable(framework):
            return self.unavailable(framework)
        if self.dry_run and dtype == "tf32":
            return "a CPU has no TF32"
        return "" if self.deadline.left() else TIME_IS_UP

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
        plan = DRY_RUN if self.dry_run else PLAN
        implementations = [BY_NAME[variant.framework]]
        with candidates(implementations, self.console, self.deadline) as running:
            (result,) = train_step.measure_interleaved(running, spec, plan)
            if "error" not in result:
                result["gpu_state"] = environment.gpu_state()  # at once: an idle GPU clocks down
                result["attention"] = running[0].ask("attention_kernels")
        if "error" not in result:
            train_step.add_percent_of_peak(result, spec, self._matmul_speeds(spec))
        return result

    def _matmul_speeds(self, spec: Spec) -> dict[str, float]:
        """Return the fastest framework's matmuls, measured once for each dtype."""
        if spec.dtype not in self._matmuls:
            asked = spec.model, spec.tokens_per_step, spec.device, spec.dtype
            self._matmuls[spec.dtype] = matmul_speeds(*asked, self.console, self.deadline)
        return self._matmuls[spec.dtype]


def check_parity(runner: Runner, marks: str) -> list[Result]:
    """Return the report of the parity tests with these marks for each twin that can compute."""
    able = [twin for twin in TWINS if not runner.unavailable(twin)]
    runner.console.print(f"parity of {' and '.join(able) or 'no framework'}: tests marked {marks}")
    only = "layers" if runner.dry_run else ""
    return gpu_parity.run(able, runner.config.device, marks, only, runner.deadline.left())


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
        variant = last_variant(framework)
        known = next(result for result in measured if is_result_of(variant, result))
        memory = runner.frameworks[framework].get("memory_limit", math.inf)
        results.append(runner.measure(variant, batch_sizes_to_try(known, memory, runner.dry_run)))
    train_step.add_speedups(results)
    return results


def batch_sizes_to_try(measured: Result, memory: float, dry_run: bool) -> list[int]:
    """Return the batch sizes that should fit in `memory` bytes, the largest first.

    `memory` is what the framework may take. The sizes are estimated from a measured result, as
    memory grows at most linearly with them and each failed attempt costs half a minute.
    """
    if dry_run:
        return DRY_RUN_BATCH_SIZES
    if "error" in measured:
        return [size for size in BATCH_SIZES if size <= LECTURE_BATCH_SIZE]
    per_sequence = measured["peak_memory"] / measured["batch_size"]
    return [size for size in BATCH_SIZES if size == 1 or size * per_sequence < 0.95 * memory]


def is_result_of(variant: Variant, result: Result) -> bool:
    """Whether a result is that of a variant."""
    return (result["name"], result["label"]) == (variant.framework, variant.label)


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
        if error := runner.reason_to_skip(name, dtype):
            results.append({"name": name, "error": error})
        else:
            runner.console.print(f"{name}: generation")
            results += generate.measure(config, [BY_NAME[name]], runner.console, runner.deadline)
    generate.add_speedups(results)
    return result | {"programs": results}


def run(config: GpuConfig, console: Console) -> list[Result]:
    """Measure everything, the most important first; write each result as soon as it is complete."""
    result = report.new_result("gpu", config) | {"ladder": [], "best": []}
    with corpus() as tokens:
        runner = Runner(config, console, tokens)
        result |= head(runner)
        gpu_report.print_lines(gpu_report.environment_lines(result))
        result["parity"] = check_parity(runner, "gpu and not slow")
        report.write(result, config.out / "gpu.json")
        runner.start_part("fastest")
        result["ladder"] = measure_variants(runner, filter(is_fastest, variants()))
        report.write(result, config.out / "gpu.json")
        runner.start_part("generation")
        generated = measure_generation(runner, "bfloat16")
        report.write(generated, config.out / "gpu_generate.json")
        runner.start_part("all")
        measure_rest(runner, result)
        report.write(result, config.out / "gpu.json")
        if not runner.dry_run and runner.deadline.left() > GPT2_SECONDS:
            result["parity_gpt2"] = check_parity(runner, "gpu and slow")
            report.write(result, config.out / "gpu.json")
    return [result, generated]


def head(runner: Runner) -> Result:
    """Return what is known before anything is measured."""
    per_token = flops_per_token(runner.model, runner.seq_len)
    return {
        "frameworks": runner.frameworks,
        "gpu_state": environment.gpu_state(),
        "seq_len": runner.seq_len,
        "flops": {"formula": train_step.FORMULA, "per_token": per_token},
    }


def measure_rest(runner: Runner, result: Result) -> None:
    """Add the other variants, the twins' first, and the largest batches, in the lecture's order."""
    fastest, rest = result["ladder"], list(filterfalse(is_fastest, variants()))
    twins = measure_variants(runner, [v for v in rest if v.framework in TWINS])
    result["best"] = measure_largest_batches(runner, fastest)
    baseline = measure_variants(runner, [v for v in rest if v.framework == BASELINE])
    found = [*fastest, *twins, *baseline]
    result["ladder"] = [next(r for r in found if is_result_of(v, r)) for v in variants()]


def draw_plot(result: Result, out: Path, console: Console) -> None:
    """Draw a result; if that fails, print why and continue."""
    try:
        draw([result], out)
    except InputError as error:
        console.print(f"{out.name}: {error}")


def main() -> None:
    """Run the command line."""
    config, console = cli.parse(GpuConfig, "benchmarks.gpu"), stderr_console()
    results = run(config, console)
    for result, name in zip(results, ("gpu", "gpu_generate"), strict=True):
        draw_plot(result, config.out / f"{name}.png", console)
    gpu_report.print_results(*results)
    print(f"wrote {config.out}")
    if errors := gpu_report.errors(results[0]):
        for error in errors:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
