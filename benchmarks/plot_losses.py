"""Plot the losses of two runs, and their relative difference.

python -m benchmarks.plot_losses runs/torch runs/flax --out docs/figures/losses.png
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # no display needed
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpt_common import cli
from gpt_common.errors import InputError
from gpt_common.metrics import read_log
from gpt_common.run_folder import LOG

COLORS = ("#ee4c2c", "#3467c1")


@dataclass(frozen=True)
class PlotConfig:
    """Plot the losses of two runs, and their relative difference."""

    first: tyro.conf.Positional[Path]
    """Folder of a run."""
    second: tyro.conf.Positional[Path]
    """Folder of another run, with steps in common."""
    out: Path
    """The image to write."""


def read_losses(run: Path) -> dict[int, float]:
    """Return the loss at each step of a run. Raises `InputError` if the folder has no log."""
    path = run / LOG
    if not path.is_file():
        raise InputError(f"{path}: no such file: expected the folder of a run")
    return {entry["step"]: entry["loss"] for entry in read_log(path) if "loss" in entry}


def draw(runs: tuple[Path, Path]) -> Figure:
    """Return the plot: both curves above, their relative difference below.

    Raises `InputError` if the runs have no step in common.
    """
    curves = [read_losses(run) for run in runs]
    steps = sorted(set(curves[0]) & set(curves[1]))
    if not steps:
        raise InputError(f"{runs[0]} and {runs[1]}: expected steps in common, got none")
    first, second = (np.array([curve[step] for step in steps]) for curve in curves)
    figure, (above, below) = plt.subplots(
        2, 1, sharex=True, figsize=(8, 5.5), height_ratios=(3, 2), layout="constrained"
    )
    above.plot(steps, first, color=COLORS[0], linewidth=4, alpha=0.45, label=runs[0].name)
    above.plot(steps, second, color=COLORS[1], linewidth=1, label=runs[1].name)
    above.set_ylabel("training loss (nats per token)")
    above.legend(frameon=False)
    draw_difference(below, steps, np.abs(first - second) / first)
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_difference(axes: Axes, steps: list[int], difference: np.ndarray) -> None:
    """Plot the relative difference at each step, with its maximum and median as the title."""
    axes.semilogy(steps, np.maximum(difference, 1e-9), color="0.3", linewidth=1)
    axes.set_ylabel("relative difference")
    axes.set_xlabel("step")
    axes.set_title(
        f"max {difference.max():.1e}, median {np.median(difference):.1e}; "
        "equal losses are drawn at 1e-9",
        fontsize=9,
    )


def main() -> None:
    """Run the command line."""
    config = cli.parse(PlotConfig, "benchmarks.plot_losses")
    figure = draw((config.first, config.second))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(config.out, dpi=150)
    print(f"wrote {config.out}")


if __name__ == "__main__":
    cli.run(main)
