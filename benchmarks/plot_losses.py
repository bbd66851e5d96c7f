"""Plot runs: training and validation losses, HellaSwag, and the relative difference of two runs.

python -m benchmarks.plot_losses runs/torch runs/flax --out docs/figures/losses.png
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

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

COLORS = ("#ee4c2c", "#3467c1", "#2a9d55", "#8a5cc2", "#b8860b", "#555555")
ZOOM = 1.5  # times the published loss is the highest one that is drawn: long runs start far above
POINTS: dict[str, Any] = {"marker": "o", "markersize": 2.5, "linewidth": 0.8, "zorder": 3}
LINE: dict[str, Any] = {"color": "0.35", "linestyle": (0, (4, 2)), "linewidth": 1}

Published = Literal["gpt2_124m"]


@dataclass(frozen=True)
class Marks:
    """What a published model reaches: its validation loss on FineWeb-Edu, and on HellaSwag."""

    label: str
    val_loss: float
    hellaswag: float


# OpenAI's weights, measured by build-nanogpt: https://github.com/karpathy/build-nanogpt
MARKS: dict[Published, Marks] = {"gpt2_124m": Marks("GPT-2 124M", 3.29, 0.2955)}


@dataclass(frozen=True)
class PlotConfig:
    """Plot the losses of runs and, if there are two, their relative difference."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs; two need steps in common."""
    out: Path
    """The image to write."""
    published: Literal[Published, None] = None
    """Draw what OpenAI's model of this size reaches, as lines, and the losses near it."""


Curve = dict[int, float]


def read_curves(run: Path) -> dict[str, Curve]:
    """Return the values of a run by name and step. Raises `InputError` if the folder has no log."""
    path = run / LOG
    if not path.is_file():
        raise InputError(f"{path}: no such file: expected the folder of a run")
    names, entries = ("loss", "val_loss", "hellaswag"), read_log(path)
    return {name: {e["step"]: e[name] for e in entries if name in e} for name in names}


def draw(runs: Sequence[Path], published: Published | None = None) -> Figure:
    """Return the plot: losses, HellaSwag if a run has it, the difference if there are two runs.

    Raises `InputError` without runs, and if two have no step in common.
    """
    if not runs:
        raise InputError("expected the folders of one or more runs (--help lists the flags)")
    curves = {run.name: read_curves(run) for run in runs}
    marks = MARKS[published] if published else None
    panels = ["losses"]
    if any(found["hellaswag"] for found in curves.values()):
        panels.append("hellaswag")
    if len(runs) == 2:
        panels.append("difference")
    figure, axes = empty_panels(panels)
    draw_losses(axes["losses"], curves, marks)
    if "hellaswag" in axes:
        draw_hellaswag(axes["hellaswag"], curves, marks)
    if "difference" in axes:
        draw_difference(axes["difference"], *common_losses(runs, curves))
    return figure


def empty_panels(names: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """Return panels below each other, the first one higher, over one axis of steps."""
    heights = [3, *[2] * (len(names) - 1)]
    figure, axes = plt.subplots(
        len(names),
        sharex=True,
        squeeze=False,
        figsize=(8, 1.1 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
    )
    for panel in axes.flat:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes.flat[-1].set_xlabel("step")
    return figure, dict(zip(names, axes.flat, strict=True))


def draw_losses(axes: Axes, curves: Mapping[str, dict[str, Curve]], marks: Marks | None) -> None:
    """Plot training losses as lines, and validation losses as points."""
    # Of two that may be equal, a wide one below a narrow one; of more, their validation counts.
    styles = ((4, 0.45), (1, 1)) if len(curves) == 2 else ((0.8, 0.4),) * len(curves)
    for (name, found), color, (width, alpha) in zip(
        curves.items(), cycle(COLORS), styles, strict=False
    ):
        plot(axes, found["loss"], color=color, linewidth=width, alpha=alpha, label=name)
        plot(axes, found["val_loss"], color=color, **POINTS)
    axes.set_ylabel("loss (nats per token)")
    validated = any(found["val_loss"] for found in curves.values())
    axes.set_title("lines: training; points: validation" if validated else "training", fontsize=9)
    if marks:
        axes.axhline(
            marks.val_loss, label=f"{marks.label}: validation loss {marks.val_loss}", **LINE
        )
        axes.set_ylim(top=ZOOM * marks.val_loss)
    axes.legend(frameon=False)


def draw_hellaswag(axes: Axes, curves: Mapping[str, dict[str, Curve]], marks: Marks | None) -> None:
    """Plot the accuracy on HellaSwag."""
    for found, color in zip(curves.values(), cycle(COLORS), strict=False):
        plot(axes, found["hellaswag"], color=color, **POINTS)
    if marks:
        axes.axhline(marks.hellaswag, label=f"{marks.label}: {marks.hellaswag}", **LINE)
        axes.legend(frameon=False)
    axes.set_ylabel("HellaSwag accuracy")


def plot(axes: Axes, curve: Curve, **style: Any) -> None:
    """Plot a curve, if it has points."""
    if curve:
        axes.plot([*curve.keys()], [*curve.values()], **style)


def common_losses(
    runs: Sequence[Path], curves: Mapping[str, dict[str, Curve]]
) -> tuple[list[int], np.ndarray]:
    """Return the steps that two runs have in common, and the relative difference of their losses.

    Raises `InputError` if there are none.
    """
    one, other = (found["loss"] for found in curves.values())
    steps = sorted(set(one) & set(other))
    if not steps:
        raise InputError(f"{runs[0]} and {runs[1]}: expected steps in common, got none")
    first, second = (np.array([curve[step] for step in steps]) for curve in (one, other))
    return steps, np.abs(first - second) / first


def draw_difference(axes: Axes, steps: list[int], difference: np.ndarray) -> None:
    """Plot the relative difference at each step, with its maximum and median as the title."""
    axes.semilogy(steps, np.maximum(difference, 1e-9), color="0.3", linewidth=1)
    axes.set_ylabel("relative difference")
    axes.set_title(
        f"max {difference.max():.1e}, median {np.median(difference):.1e}; "
        "equal losses are drawn at 1e-9",
        fontsize=9,
    )


def main() -> None:
    """Run the command line."""
    config = cli.parse(PlotConfig, "benchmarks.plot_losses")
    figure = draw(config.runs, config.published)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(config.out, dpi=150)
    print(f"wrote {config.out}")


if __name__ == "__main__":
    cli.run(main)
