"""Time training steps of both twins and of Hugging Face's GPT-2, side by side.

python -m benchmarks.train_step --dtype bfloat16 --out benchmarks/results/train_bfloat16.json
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import environment, report
from benchmarks.candidate import Candidate, candidates, corpus, stderr_console
from benchmarks.implementations import BASELINE, Framework, Implementation, select_implementations
from benchmarks.peaks import matmul_speeds
from benchmarks.process import TIMEOUT
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec, check_length
from gpt_common import cli
from gpt_common.config import PRESETS, Device, GPTConfig, Preset
from gpt_common.errors import require_positive
from gpt_common.flops import datasheet_peak, flops_per_token

FORMULA = "a token: 6 N + 12 L C T, N the weights without the positions' (gpt_common.metrics)"


@dataclass(frozen=True)
class Plan:
    """How often steps are measured."""

    steps: int = 5
    """Steps of each implementation per round."""
    rounds: int = 4
    """Rounds; in each, the implementations run one after the other."""
    warmup: int = 2
    """Warm-up steps after the first, which compiles; neither is counted."""
    sequential: bool = False
    """Finish one implementation before the next starts, if they do not fit in memory together."""

    def __post_init__(self) -> None:
        for name in ("steps", "rounds"):
            require_positive(name, getattr(self, name))


@dataclass(frozen=True)
class TrainStepConfig:
    """Time training steps of both twins and of Hugging Face's GPT-2, side by side.

    Each implementation runs in a separate process, and their rounds are interleaved. The last line
    of the output is one JSON object.
    """

    framework: tuple[Framework, ...] = ("all",)
    """One or more; huggingface-best is tuned: fused AdamW, and malloc that keeps freed memory."""
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
    compile: bool = False
    """Compile PyTorch's models with torch.compile; JAX always compiles."""
    fast_ops: bool = True
    """Use the twins' fast operations; --no_fast_ops turns them off."""
    plan: Plan = field(default_factory=Plan)
    flax_peer_python: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Interpreter with transformers<5, flax<0.11, jax<0.7: adds Hugging Face's Flax GPT-2."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result to a file, for benchmarks.plot."""

    def __post_init__(self) -> None:
        require_positive("batch_size", self.batch_size)
        require_positive("seq_len", self.seq_len)

    def spec(self, tokens: str, model: GPTConfig | None = None) -> Spec:
        """Return what each implementation is to run."""
        return Spec(
            model=model or PRESETS[self.preset],
            tokens=tokens,
            device=self.device,
            dtype=self.dtype,
            batch_size=self.batch_size,
            seq_len=self.seq_len,
            compile=self.compile,
            fast_ops=self.fast_ops,
        )


def measure(
    implementations: Sequence[Implementation],
    spec: Spec,
    plan: Plan,
    console: Console,
    timeout: float = TIMEOUT,
    peaks: bool = True,
) -> list[Result]:
    """Return the result of each implementation, its speed-ups and its percentages of the peaks."""
    groups = [[i] for i in implementations] if plan.sequential else [list(implementations)]
    results = []
    for group in groups:
        with candidates(group, console, timeout) as running:
            results += measure_interleaved(running, spec, plan)
    add_speedups(results)
    if peaks:
        asked = spec.model, spec.tokens_per_step, spec.device, spec.dtype
        matmuls = matmul_speeds(*asked, console, timeout)
        for result in results:
            add_percent_of_peak(result, spec, matmuls)
    return results


def measure_interleaved(running: Sequence[Candidate], spec: Spec, plan: Plan) -> list[Result]:
    """Warm up the candidates, then interleave their rounds."""
    starts = [warm_up(candidate, spec, plan) for candidate in running]
    seconds: list[list[float]] = [[] for _ in running]
    losses: list[float] = [0.0 for _ in running]
    for _ in range(plan.rounds):
        for i, candidate in enumerate(running):
            if answer := candidate.ask("steps", count=plan.steps):
                seconds[i] += answer["seconds"]
                losses[i] = answer["loss"]
    results = []
    for candidate, start, times, loss in zip(running, starts, seconds, losses, strict=True):
        memory = candidate.ask("memory")
        if candidate.error:
            results.append(candidate.failure())
        else:
            figures = {"last_loss": loss, "peak_memory": memory}
            results.append(summarise(candidate.implementation.name, spec, start, times) | figures)
    return results


def warm_up(candidate: Candidate, spec: Spec, plan: Plan) -> Result:
    """Run the steps that are not counted; return the first one's result and time to its loss."""
    asked = spec.as_dict() | {"settings": spec.settings | candidate.implementation.settings}
    started = time.perf_counter()
    start = candidate.ask("train", spec=asked)
    seconds = {"first_loss_seconds": time.perf_counter() - started}
    if plan.warmup and start:
        candidate.ask("steps", count=plan.warmup)
    return (start or {}) | seconds


def summarise(name: str, spec: Spec, start: Result, seconds: list[float]) -> Result:
    """Return an implementation's result, without the percentages of the peaks."""
    median = statistics.median(seconds)
    flops = flops_per_token(spec.model, spec.seq_len) * spec.tokens_per_step
    return {
        "name": name,
        "device": start["device"],
        "milliseconds": report.summary_in_ms(seconds),
        "seconds": seconds,
        "tokens_per_second": spec.tokens_per_step / median,
        "flops_per_second": flops / median,
        "setup_seconds": start["setup_seconds"],
        "first_loss_seconds": start["first_loss_seconds"],
        "first_step_seconds": start["first_step_seconds"],
        "compile_seconds": max(0.0, start["first_step_seconds"] - median),
        "first_loss": start["loss"],
        **({"versions": start["versions"]} if "versions" in start else {}),
    }


def add_percent_of_peak(result: Result, spec: Spec, matmuls: dict[str, float]) -> None:
    """Add the fraction of the fastest of `matmuls`, and of the datasheet's peak if it is known."""
    if "error" in result:
        return
    speed, gpu = result["flops_per_second"], environment.nvidia_gpu().get("gpu", "")
    result["matmuls"] = matmuls
    if matmuls:
        result["matmul_peak"] = max(matmuls.values())
        result["share_of_matmul_peak"] = speed / result["matmul_peak"]
    if result["device"] == "cuda":
        peak = datasheet_peak(gpu, spec.dtype)
        result["share_of_datasheet_peak"] = peak and speed / peak


def add_speedups(results: Sequence[Result]) -> None:
    """Add to each result its speed-up over each of Hugging Face's models, the baselines."""
    done = {r["name"]: r["tokens_per_second"] for r in results if "error" not in r}
    baselines = {name: speed for name, speed in done.items() if name.startswith(BASELINE)}
    for result in results:
        if "error" not in result:
            speed = result["tokens_per_second"]
            result["times"] = {name: speed / other for name, other in baselines.items()}


def table(title: str, results: Sequence[Result]) -> Table:
    """Return the results as a table."""
    baselines = list(next((r["times"] for r in results if "times" in r), {}))
    shown = Table(title=title, title_justify="left", box=None)
    heads = ("ms/step", "min", "max", "tokens/s", "TFLOP/s", "% of peak", "% of datasheet")
    heads += ("memory", "first step", "loss", *report.speed_up_heads(baselines))
    shown.add_column("implementation", no_wrap=True)
    for head in heads:
        shown.add_column(head, justify="right", no_wrap=True)
    for result in results:
        if "error" not in result:
            shown.add_row(*row(result, baselines))
    return shown


def row(result: Result, baselines: Sequence[str]) -> list[str]:
    """Return a result as the cells of a row."""
    times, shares = result["milliseconds"], ("share_of_matmul_peak", "share_of_datasheet_peak")
    return [
        result["name"],
        *(f"{times[name]:,.1f}" for name in ("median", "min", "max")),
        f"{result['tokens_per_second']:,.0f}",
        f"{result['flops_per_second'] / 1e12:.3g}",
        *(report.percent(result.get(share)) for share in shares),
        report.gigabytes(result["peak_memory"]),
        f"{result['first_step_seconds']:.1f} s",
        f"{result['last_loss']:.2f}",
        *(f"{result['times'][name]:.2f}x" for name in baselines),
    ]


def run(config: TrainStepConfig, console: Console) -> Result:
    """Return the result. Raises `InputError` if a sequence is longer than the model's context."""
    check_length(config.preset, PRESETS[config.preset], config.seq_len)
    implementations = select_implementations(config.framework, config.flax_peer_python)
    result = report.new_result("train_step", config)
    with corpus() as tokens:
        spec = config.spec(tokens)
        result["flops"] = {
            "formula": FORMULA,
            "per_token": flops_per_token(spec.model, spec.seq_len),
        }
        result["programs"] = measure(implementations, spec, config.plan, console)
    return result


def headline(result: Result) -> str:
    """Return a title: model, sizes and dtype, then the environment."""
    options: dict[str, Any] = result["options"]
    return (
        f"{options['preset']}, B={options['batch_size']}, T={options['seq_len']}, "
        f"{options['dtype']}{', compiled' if options['compile'] else ''}\n{report.title(result)}"
    )


def main() -> None:
    """Run the command line."""
    config = cli.parse(TrainStepConfig, "benchmarks.train_step")
    result = run(config, stderr_console())
    report.finish(result, [table(headline(result), result["programs"])], config.out)


if __name__ == "__main__":
    cli.run(main)
