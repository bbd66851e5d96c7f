"""Measure how close the twins are to the reference, and write it down.

python -m tests.parity.report
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.environment import describe
from gpt_common import cli
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import Dtype, OptimizerOptions
from tests.conftest import random_weights
from tests.parity import reference
from tests.parity.agreement import (
    LIMITS,
    PROMISES,
    Differences,
    loss_differences,
    named_differences,
    outcome_differences,
    training_differences,
    without_key_bias,
)
from tests.parity.figures import (
    STYLES,
    TITLES,
    Measured,
    draw_drift,
    draw_gradients,
    draw_layers,
    draw_losses,
)
from tests.parity.measurements import (
    SHAPE,
    SMALL,
    first_update,
    fresh_gpt2,
    grown_gpt2,
    outside_run,
    passes,
    real_tokens,
    runs,
)
from tests.parity.reference import Training

TEMPLATE = Path(__file__).parent / "numerics_template.md"
QUANTITIES = {
    "layers": "output of the worst sub-layer",
    "logits": "logits at all positions",
    "loss": "loss",
    "gradients": "gradient of the worst parameter",
    "norms": "gradient norm, the worst step",
    "weights": "the worst parameter or moment",
    "first_losses": "loss, the worst of the first 10 steps",
    "losses": "loss, the worst step",
}


@dataclass(frozen=True)
class ReportConfig:
    """Measure how close the twins are to the float64 reference, and write it down."""

    out: Path = Path("docs")
    """Folder of numerics.md and of its figures/."""


def measure_passes(
    what: str, start: Checkpoint, B: int, T: int, dtypes: Iterable[Dtype]
) -> list[Measured]:
    """Measure one forward and backward pass over real text."""
    x, y = reference.batch(real_tokens(start.config.vocab_size), 0, B, T)
    return [
        Measured(what, framework, dtype, outcome_differences(found, expected))
        for framework, dtype, found, expected in passes(start, x, y, tuple(dtypes))
    ]


def measure_drift(lengths: tuple[int, ...]) -> dict[int, list[Measured]]:
    """Measure runs of the small model, by their length."""
    start = Checkpoint(SMALL, random_weights(SMALL, scale=0.05))
    tokens, options = real_tokens(SMALL.vocab_size), OptimizerOptions(learning_rate=1e-3)
    measured: dict[int, list[Measured]] = {length: [] for length in lengths}
    for framework, dtype, length, found, expected in runs(
        start, tokens, 4, 23, options, lengths, tuple(STYLES)
    ):
        differences = training_differences(found, expected)
        measured[length].append(Measured(f"small, {steps(length)}", framework, dtype, differences))
    return measured


def measure_first_steps() -> list[Measured]:
    """Measure weights and moments of GPT-2 after 1 and 10 steps."""
    return [
        Measured(
            f"124M, {steps(length)}",
            framework,
            dtype,
            of_run(length, training_differences(found, expected)),
        )
        for framework, dtype, length, found, expected in runs(
            grown_gpt2(), real_tokens(), *SHAPE, OptimizerOptions(), (1, 10)
        )
    ]


@dataclass(frozen=True)
class FreshRuns:
    """Runs of GPT-2 from its initial weights: after one step, and the losses of fifty."""

    first: dict[str, tuple[Training, Training]]  # by framework: found and expected
    losses: dict[str, list[float]]  # by framework, and of "reference" and "transformers"


def run_fresh() -> FreshRuns:
    """Run both twins, the reference and transformers' model."""
    start, tokens, options = fresh_gpt2(), real_tokens(), OptimizerOptions(steps=50)
    first: dict[str, tuple[Training, Training]] = {}
    losses: dict[str, list[float]] = {}
    for framework, _, length, found, expected in runs(start, tokens, *SHAPE, options, (1, 50)):
        if length == 1:
            first[framework] = found, expected
        losses |= {framework: found.losses, "reference": expected.losses}
    losses["transformers"] = outside_run(start, tokens, *SHAPE, options, "float32").losses
    return FreshRuns(first, losses)


def measure_losses(losses: dict[str, list[float]]) -> list[Measured]:
    """Measure the losses of fifty steps against the reference, and against transformers'."""
    judges = {"124M, 50 steps": "reference", "124M, 50 steps, transformers": "transformers"}
    return [
        Measured(what, framework, "float32", loss_differences(losses[framework], losses[judge]))
        for what, judge in judges.items()
        for framework in TITLES
    ]


def measure_fresh_update(first: dict[str, tuple[Training, Training]]) -> list[tuple[str, ...]]:
    """Return what is measured after a fresh model's first step, and each twin's figure."""
    start, options = fresh_gpt2(), OptimizerOptions()
    columns = []
    for found, expected in first.values():
        differences = training_differences(found, expected)["weights"]
        own = first_update(found, start, options)
        from_moments = named_differences(without_key_bias(found.weights), own)
        columns.append(
            [
                max(v for k, v in differences.items() if k.startswith("exp_avg")),
                max(v for k, v in differences.items() if is_weight(k) and not is_bias(k)),
                max(v for k, v in differences.items() if is_weight(k) and is_bias(k)),
                max(from_moments.values()),
            ]
        )
    names = ["moments", "matrices, embeddings, norms' weights", "biases"]
    names.append("all weights, against AdamW in float64 on the twin's own moments")
    return [(n, f"{a:.1e}", f"{b:.1e}") for n, a, b in zip(names, *columns, strict=True)]


def is_weight(name: str) -> bool:
    """Whether a difference is that of a parameter, not of a moment."""
    return name.startswith("weights ")


def is_bias(name: str) -> bool:
    """Whether the parameter starts at zero."""
    return name.endswith(".bias")


def measure_head(rows: Iterable[int]) -> list[tuple[str, ...]]:
    """Return the difference of dlogits @ wte in float32, by the number of positions.

    Of few rows both frameworks make a product of a vector and a matrix, another piece of code.
    """
    import jax
    import torch

    random = np.random.default_rng(0)
    wte = random.standard_normal((50257, 768), np.float32)
    result = []
    for n in rows:
        probabilities = reference.softmax(3 * random.standard_normal((n, 50257)))
        d = probabilities.astype(np.float32)
        expected = d.astype(np.float64) @ wte.astype(np.float64)
        products = (torch.from_numpy(d) @ torch.from_numpy(wte)).numpy(), jax.numpy.dot(d, wte)
        norm = np.linalg.norm(expected)
        found = [f"{np.linalg.norm(np.asarray(p) - expected) / norm:.1e}" for p in products]
        result.append((str(n), *found))
    return result


def of_run(length: int, differences: Differences) -> Differences:
    """Return what the table says of a run: what short ones leave, the losses of long ones."""
    names = ["weights"] if length <= 10 else ["first_losses", "losses", "norms"]
    return {name: differences[name] for name in names}


def steps(length: int) -> str:
    """Return the length of a run in words."""
    return f"{length:,} step{'s' * (length > 1)}"


def comparison_rows(measured: list[Measured]) -> list[tuple[str, ...]]:
    """Return the table's rows: one for a quantity, a column for each twin."""
    cells: dict[tuple[str, Dtype, str], list[str]] = {}
    for m in measured:
        for quantity, named in m.differences.items():
            worst = cells.setdefault((m.what, m.dtype, quantity), [])
            worst.append(f"{max(named.values()):.1e}")
    return [
        (what, dtype, QUANTITIES[quantity], *found, *bounds(what, dtype, quantity))
        for (what, dtype, quantity), found in cells.items()
    ]


def bounds(what: str, dtype: Dtype, quantity: str) -> tuple[str, str]:
    """Return what the tests allow and what is promised; in float32 that is for GPT-2 124M."""
    promise = PROMISES.get(dtype, {}).get(quantity)
    return f"{getattr(LIMITS[dtype], quantity):.0e}", f"{promise:.0e}" if promise else ""


def table(headings: str, rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; the headings are separated by bars."""
    rule = "|".join(" --- " for _ in headings.split("|"))
    lines = [headings, rule, *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line.strip()} |" for line in lines)


def report(config: ReportConfig) -> None:
    """Measure, draw and write; it takes a quarter of an hour on two cores."""
    figures = config.out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    small = Checkpoint(SMALL, random_weights(SMALL))
    measured = measure_passes("small, one pass", small, 3, 17, STYLES)
    drift = measure_drift((1, 10, 100, 1000))
    draw_drift(drift, figures / "numerics_drift.png")
    for length in (1, 10, 1000):
        measured += [replace(m, differences=of_run(length, m.differences)) for m in drift[length]]
    large = measure_passes("124M, one pass", grown_gpt2(), 2, 256, STYLES)
    draw_layers(large, figures / "numerics_layers.png")
    draw_gradients(large, figures / "numerics_gradients.png")
    fresh = run_fresh()
    draw_losses(fresh.losses, figures / "numerics_losses.png")
    measured += [*large, *measure_first_steps(), *measure_losses(fresh.losses)]
    page = TEMPLATE.read_text().format(
        comparisons=table(
            "model and run | dtype | what | PyTorch | Flax | allowed | promised",
            comparison_rows(sorted(measured, key=lambda m: list(STYLES).index(m.dtype))),
        ),
        fresh=table("after the first step | PyTorch | Flax", measure_fresh_update(fresh.first)),
        head=table("positions | PyTorch | Flax", measure_head((1, 2, 4, 8, 16, 64))),
        environment=", ".join(f"{k} {v}" for k, v in describe().items()),
    )
    (config.out / "numerics.md").write_text(page)
    print(f"wrote {config.out / 'numerics.md'}")


def main() -> None:
    """Run the command line."""
    report(cli.parse(ReportConfig, "report"))


if __name__ == "__main__":
    cli.run(main)
