"""Measure how close the twins are to the reference, and write it down.

python -m tests.parity.report
python -m tests.parity.report --only_functions   # figures/parity.json alone, in minutes
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
from tests.figures import environment, rounded, write
from tests.parity import reference
from tests.parity.comparisons import (
    SHAPE,
    SMALL,
    first_update,
    fresh_gpt2,
    grown_gpt2,
    passes,
    real_tokens,
    runs,
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
from tests.parity.functions import MODEL, measure_functions
from tests.parity.hugging_face import outside_run
from tests.parity.reference import Training
from tests.parity.tolerances import (
    LIMITS,
    PROMISES,
    Differences,
    loss_differences,
    named_differences,
    outcome_differences,
    training_differences,
    without_key_bias,
)

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
    only_functions: bool = False
    """Measure each function in the small model, and write figures/parity.json alone."""


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


def run_fresh() -> tuple[dict[str, list[float]], list[list[float]]]:
    """Run GPT-2 from its initial weights.

    Return the losses of fifty steps, of the twins, "reference" and "transformers", and what is
    measured of each twin after one step.
    """
    start, tokens, options = fresh_gpt2(), real_tokens(), OptimizerOptions(steps=50)
    losses: dict[str, list[float]] = {}
    updates = []
    for framework, _, length, found, expected in runs(start, tokens, *SHAPE, options, (1, 50)):
        if length == 1:
            updates.append(measure_fresh_update(found, expected))
        losses |= {framework: found.losses, "reference": expected.losses}
    losses["transformers"] = outside_run(start, tokens, *SHAPE, options, "float32").losses
    return losses, updates


def measure_losses(losses: dict[str, list[float]]) -> list[Measured]:
    """Measure the losses of fifty steps against the reference, and against transformers'."""
    references = {"124M, 50 steps": "reference", "124M, 50 steps, transformers": "transformers"}
    return [
        Measured(what, framework, "float32", loss_differences(losses[framework], losses[expected]))
        for what, expected in references.items()
        for framework in TITLES
    ]


FRESH_UPDATE = (
    "moments",
    "matrices, embeddings, weights of norms",
    "biases",
    "all weights, against AdamW in float64 on the twin's own moments",
)


def measure_fresh_update(found: Training, expected: Training) -> list[float]:
    """Return what FRESH_UPDATE says of a fresh model's first step."""
    differences = training_differences(found, expected)["weights"]
    biases = [v for k, v in differences.items() if k.startswith("weights ") and "bias" in k]
    others = [v for k, v in differences.items() if k.startswith("weights ") and "bias" not in k]
    moments = [v for k, v in differences.items() if k.startswith("exp_avg")]
    own = first_update(found, fresh_gpt2(), OptimizerOptions())
    from_moments = named_differences(without_key_bias(found.weights), own).values()
    return [max(moments), max(others), max(biases), max(from_moments)]


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
    """Return the tests' tolerance and the target; in float32 those of GPT-2 124M."""
    promise = PROMISES.get(dtype, {}).get(quantity)
    return f"{getattr(LIMITS[dtype], quantity):.0e}", f"{promise:.0e}" if promise else ""


def table(headings: str, rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; the headings are separated by bars."""
    rule = "|".join(" --- " for _ in headings.split("|"))
    lines = [headings, rule, *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line.strip()} |" for line in lines)


def write_functions(out: Path) -> None:
    """Measure each function, and write the JSON of the pages that show them."""
    measured = {"model": MODEL, "functions": measure_functions()}
    write(out, {"environment": environment()} | rounded(measured))


def report(config: ReportConfig) -> None:
    """Measure, draw and write; it takes a quarter of an hour on two cores."""
    figures = config.out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    small = Checkpoint(SMALL, random_weights(SMALL))
    measured = measure_passes("small, one pass", small, 3, 17, STYLES)
    drift = measure_drift((1, 10, 100, 1000))
    draw_drift(drift, figures / "numerics_drift.png")
    measured += [replace(m, differences=of_run(1, m.differences)) for m in (*drift[1], *drift[10])]
    exact = (m for m in drift[1000] if m.dtype == "float64")
    measured += [replace(m, differences=of_run(1000, m.differences)) for m in exact]
    large = measure_passes("124M, one pass", grown_gpt2(), 2, 256, STYLES)
    draw_layers(large, figures / "numerics_layers.png")
    draw_gradients(large, figures / "numerics_gradients.png")
    losses, updates = run_fresh()
    draw_losses(losses, figures / "numerics_losses.png")
    measured += [*large, *measure_first_steps(), *measure_losses(losses)]
    page = TEMPLATE.read_text().format(
        comparisons=table(
            "model and run | dtype | what | PyTorch | Flax | tolerance | target",
            comparison_rows(sorted(measured, key=lambda m: list(STYLES).index(m.dtype))),
        ),
        fresh=table(
            "after the first step | PyTorch | Flax",
            [
                (name, *(f"{value:.1e}" for value in values))
                for name, *values in zip(FRESH_UPDATE, *updates, strict=True)
            ],
        ),
        head=table("positions | PyTorch | Flax", measure_head((1, 2, 4, 8, 16, 64))),
        environment=", ".join(f"{k} {v}" for k, v in describe().items()),
    )
    (config.out / "numerics.md").write_text(page)
    print(f"wrote {config.out / 'numerics.md'}")


def main() -> None:
    """Run the command line."""
    config = cli.parse(ReportConfig, "tests.parity.report")
    write_functions(config.out / "figures" / "parity.json")
    if not config.only_functions:
        report(config)


if __name__ == "__main__":
    cli.run(main)
