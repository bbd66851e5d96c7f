"""The time of a training step as depth, width, context and batch grow, one at a time.

python -m benchmarks.scaling --out benchmarks/results/scaling.json
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import report, train_step
from benchmarks.candidate import corpus, stderr_console
from benchmarks.implementations import Framework, select_implementations
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec
from benchmarks.train_step import Plan
from gpt_common import cli
from gpt_common.config import PRESETS, Device, Preset
from gpt_common.errors import InputError, require_positive
from gpt_common.weights import num_parameters

Axis = Literal["depth", "width", "context", "batch"]


@dataclass(frozen=True)
class ScalingConfig:
    """Time training steps as depth, width, context and batch grow, one at a time.

    The other three are those of the preset, --seq_len and --batch_size. The last line of the output
    is one JSON object.
    """

    vary: tuple[Axis, ...] = ("depth", "width", "context", "batch")
    """Sizes to vary, one at a time."""
    depth: tuple[int, ...] = (3, 6, 12)
    """Numbers of blocks."""
    width: tuple[int, ...] = (192, 384, 768)
    """Values of n_embd; the head size is the preset's."""
    context: tuple[int, ...] = (64, 128, 256, 512)
    """Values of T."""
    batch: tuple[int, ...] = (1, 2, 4, 8)
    """Values of B."""
    framework: tuple[Framework, ...] = ("torch", "flax", "huggingface")
    """One or more."""
    device: Device = "auto"
    """auto takes cuda, else mps (PyTorch only), else cpu."""
    dtype: Dtype = "float32"
    """The dtype that matrix products compute in."""
    preset: Preset = "gpt2"
    """Named model configuration to vary."""
    batch_size: int = 4
    """Sequences in a batch (B), unless it is varied."""
    seq_len: int = 128
    """Tokens in a sequence (T), unless it is varied."""
    compile: bool = False
    """Compile PyTorch's models with torch.compile; JAX always compiles."""
    plan: Plan = field(default_factory=lambda: Plan(steps=2, rounds=2, warmup=1))
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result to a file, for benchmarks.plot."""

    def __post_init__(self) -> None:
        for axis in ("depth", "width", "context", "batch"):
            for value in getattr(self, axis):
                require_positive(axis, value)

    def spec(self, tokens: str) -> Spec:
        """Return the spec to vary."""
        shared = ("device", "dtype", "batch_size", "seq_len", "compile")
        options = {name: getattr(self, name) for name in shared}
        return Spec(model=PRESETS[self.preset], tokens=tokens, **options)


def with_size(spec: Spec, axis: Axis, value: int) -> Spec:
    """Return `spec` with one size changed. Raises `InputError` for an impossible size."""
    model = spec.model
    head_size = model.n_embd // model.n_head
    match axis:
        case "depth":
            return replace(spec, model=replace(model, n_layer=value))
        case "width":
            if value % head_size:
                raise InputError(f"width: expected multiples of {head_size}, got {value}")
            heads = value // head_size
            return replace(spec, model=replace(model, n_embd=value, n_head=heads))
        case "context":
            longest = max(value, model.block_size)
            return replace(spec, seq_len=value, model=replace(model, block_size=longest))
        case "batch":
            return replace(spec, batch_size=value)


def points(config: ScalingConfig, tokens: str) -> Iterator[tuple[Axis, int, Spec]]:
    """Yield each axis, value and spec. Raises `InputError` for an impossible size."""
    for axis in config.vary:
        for value in getattr(config, axis):
            yield axis, value, with_size(config.spec(tokens), axis, value)


def run(config: ScalingConfig, console: Console) -> Result:
    """Return the result of every point."""
    implementations = select_implementations(config.framework)
    result = report.new_result("scaling", config)
    series: dict[str, list[Result]] = {axis: [] for axis in config.vary}
    with corpus() as tokens:
        for axis, value, spec in list(points(config, tokens)):
            console.print(f"{axis} {value}")
            found = train_step.measure(implementations, spec, config.plan, console, peaks=False)
            shape = dataclasses.asdict(spec.model) | {"parameters": num_parameters(spec.model)}
            series[axis].append({"value": value, "model": shape, "programs": found})
    return result | {"series": series}


def table(result: Result) -> Table:
    """Return the result as a table, with a row for each point and implementation."""
    shown = Table("axis", "value", "implementation", title=report.title(result), box=None)
    for head in ("ms/step", "tokens/s", "TFLOP/s", "memory"):
        shown.add_column(head, justify="right")
    for axis, series in result["series"].items():
        for point in series:
            for found in point["programs"]:
                if "error" not in found:
                    shown.add_row(axis, f"{point['value']}", *row(found))
        shown.add_section()
    return shown


def row(found: Result) -> list[str]:
    """Return an implementation's result as the cells of a row."""
    return [
        found["name"],
        f"{found['milliseconds']['median']:,.1f}",
        f"{found['tokens_per_second']:,.0f}",
        f"{found['flops_per_second'] / 1e12:.3g}",
        report.gigabytes(found["peak_memory"]),
    ]


def main() -> None:
    """Run the command line."""
    config = cli.parse(ScalingConfig, "benchmarks.scaling")
    result = run(config, stderr_console())
    report.finish(result, [table(result)], config.out)


if __name__ == "__main__":
    cli.run(main)
