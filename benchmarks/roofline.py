"""The least time that a GPU needs for a training step, by its data sheet.

python -m benchmarks.roofline --card h100 --batch_size 16 --milliseconds 80   # needs no GPU
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.candidate import stderr_console
from benchmarks.cards import Card, CardName, read_card
from benchmarks.implementations import BY_NAME
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec, check_length
from gpt_common import cli
from gpt_common.config import PRESETS, Preset
from gpt_common.errors import InputError, require_positive

# With these, jax compiles for a card that is not there.
COMPILES = {"JAX_PLATFORMS": "cuda,cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
# A kernel is of the first group whose words are in the path of its layer.
GROUPS = {
    "layer norms": r"\bln_|LayerNorm",
    "attention": r"\battn\b",
    "MLP": r"\bmlp\b",
    "embeddings": r"\bw[tp]e\b(?!\.attend)|Embedding",
    "residual stream": r"\bh_\d|Block",
    "head and loss": "loss",
    "clipping and AdamW": "",
}


@dataclass(frozen=True)
class RooflineConfig:
    """Count what a GPU does in a training step, and the least time for it by its data sheet.

    Each kernel takes at least the time to move its bytes, and at least that of its matrix products.
    In Flax the kernels are those that XLA compiles for the card, which needs jax's CUDA plugin, and
    no GPU. In PyTorch they are the operations without torch.compile, which moves less. The last
    line of the output is one JSON object.
    """

    framework: tuple[Literal["torch", "flax"], ...] = ("torch", "flax")
    """One or both twins."""
    card: CardName = "h100"
    """The GPU: H100 80GB HBM3 or A100-SXM4-80GB."""
    dtype: Dtype = "bfloat16"
    """The dtype that matrix products compute in."""
    preset: Preset = "gpt2"
    """Named model configuration."""
    batch_size: int = 16
    """Sequences in a batch (B)."""
    seq_len: int = 1024
    """Tokens in a sequence (T)."""
    fast_ops: bool = True
    """Use the twins' fast operations; --no_fast_ops turns them off."""
    milliseconds: float | None = None
    """A measured step, to compare with the least time."""
    measured: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Compare with this result of benchmarks.train_step on such a card, and take its sizes."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result to a file."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len"):
            require_positive(name, getattr(self, name))
        if self.milliseconds is not None:
            require_positive("milliseconds", self.milliseconds)

    def spec(self) -> Spec:
        """Return the training step."""
        sizes = self.batch_size, self.seq_len
        return Spec(PRESETS[self.preset], "", "cuda", self.dtype, *sizes, fast_ops=self.fast_ops)


def with_sizes_of(config: RooflineConfig, measured: Result) -> RooflineConfig:
    """Return the config with the sizes of a result of train_step.

    Raises `InputError` for another benchmark's, or of another device.
    """
    if measured["benchmark"] != "train_step":
        raise InputError(f"expected a result of train_step, got {measured['benchmark']}")
    wanted, found = read_card(config.card, config.dtype).name, measured["environment"]
    if found.get("gpu") != wanted:
        raise InputError(f"expected a result of {wanted}, got {report.hardware(measured)}")
    names = ("dtype", "preset", "batch_size", "seq_len", "fast_ops")
    return replace(config, **{name: measured["options"][name] for name in names})


def medians(measured: Result) -> dict[str, float]:
    """Return the milliseconds of each implementation's step in a result of train_step."""
    done = [program for program in measured["programs"] if "error" not in program]
    return {program["name"]: program["milliseconds"]["median"] for program in done}


def count_kernels(framework: str, spec: Spec, card: CardName, console: Console) -> list[Result]:
    """Return the kernels of a twin's step. Raises `WorkerError` if its process fails."""
    command = [sys.executable, "-m", "benchmarks.workers.kernels", f"{framework}_kernels"]
    environ = BY_NAME[framework].environ | COMPILES
    with console.status(f"{framework}: kernels"), WorkerProcess(command, environ) as worker:
        return worker.ask("kernels", spec=spec.as_dict(), card=card)


def group_of(layer: str) -> str:
    """Return the group of a kernel by the path of its layer."""
    return next(name for name, words in GROUPS.items() if re.search(words, layer))


def summarise(kernels: Sequence[Result], card: Card) -> list[Result]:
    """Return the kernels, bytes, FLOPs and least milliseconds of each group, and of all.

    The least time is the sum of the kernels', which run one after the other (Williams et al. 2009,
    the roofline model, doi:10.1145/1498765.1498785).
    """
    names = ("kernels", "bytes", "flops", "milliseconds")
    groups: dict[str, Result] = {name: dict.fromkeys(names, 0.0) for name in (*GROUPS, "all")}
    for kernel in kernels:
        moving = kernel["bytes"] / card.bytes_per_second
        seconds = max(moving, kernel["flops"] / card.flops_per_second)
        once = 1, kernel["bytes"], kernel["flops"], 1000 * seconds
        for group in (group_of(kernel["layer"]), "all"):
            for name, value in zip(names, once, strict=True):
                groups[group][name] += kernel["times"] * value
    return [{"group": name, **figures} for name, figures in groups.items()]


def analyse(
    framework: str, config: RooflineConfig, milliseconds: float | None, console: Console
) -> Result:
    """Return the result of a twin whose step took `milliseconds`; one that fails has an error."""
    try:
        kernels = count_kernels(framework, config.spec(), config.card, console)
    except WorkerError as error:
        console.print(f"{framework}: {error}")
        return {"name": framework, "error": str(error)}
    groups = summarise(kernels, read_card(config.card, config.dtype))
    result: Result = {"name": framework, "groups": groups}
    if milliseconds:
        share = groups[-1]["milliseconds"] / milliseconds
        result |= {"milliseconds": milliseconds, "share_of_limit": share}
    return result


def table(result: Result) -> Table:
    """Return the result as a table, with a row for each group of kernels."""
    shown = Table("twin", "kernels of", title=headline(result), title_justify="left", box=None)
    for head in ("number", "GB moved", "TFLOP", "least ms", "measured ms", "limit reached"):
        shown.add_column(head, justify="right", no_wrap=True)
    for found in result["programs"]:
        for group in found.get("groups", []):
            shown.add_row(*row(found, group))
        shown.add_section()
    return shown


def row(found: Result, group: Result) -> list[str]:
    """Return a group of kernels as the cells of a row; the last one has the measured time."""
    whole = group["group"] == "all" and "milliseconds" in found
    return [
        found["name"],
        group["group"],
        f"{group['kernels']:,.0f}",
        f"{group['bytes'] / 1e9:.1f}",
        f"{group['flops'] / 1e12:.2f}",
        f"{group['milliseconds']:.2f}",
        f"{found['milliseconds']:.1f}" if whole else "",
        report.percent(found["share_of_limit"]) if whole else "",
    ]


def headline(result: Result) -> str:
    """Return a title: model, sizes and dtype, then the card's figures."""
    options, card = result["options"], result["card"]
    return (
        f"{options['preset']}, B={options['batch_size']}, T={options['seq_len']}, "
        f"{options['dtype']}\n{card['name']}: {card['flops_per_second'] / 1e12:.0f} TFLOP/s, "
        f"{card['bytes_per_second'] / 1e12:.2f} TB/s"
    )


def run(config: RooflineConfig, console: Console) -> Result:
    """Return the result. Raises `InputError` for sizes that the model lacks."""
    steps: dict[str, float] = {}
    if config.milliseconds:
        steps = dict.fromkeys(config.framework, config.milliseconds)
    if config.measured:
        measured = report.read(config.measured)
        config, steps = with_sizes_of(config, measured), medians(measured)
    check_length(config.preset, PRESETS[config.preset], config.seq_len)
    result = report.new_result("roofline", config)
    result["card"] = asdict(read_card(config.card, config.dtype))
    result["programs"] = [
        analyse(name, config, steps.get(name), console) for name in config.framework
    ]
    return result


def main() -> None:
    """Run the command line."""
    config = cli.parse(RooflineConfig, "benchmarks.roofline")
    result = run(config, stderr_console())
    report.finish(result, [table(result)], config.out)


if __name__ == "__main__":
    cli.run(main)
