"""The pictures of docs/numerics.md."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # no display needed
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from gpt_common.config import Dtype
from tests.parity.tolerances import PROMISES, Differences, each_relative

FLOOR = 1e-17  # where equal bits are drawn
TITLES = {"torch": "PyTorch", "flax": "Flax"}
COLORS = {"torch": "#ee4c2c", "flax": "#3467c1"}
STYLES: dict[Dtype, str] = {"float64": ":", "float32": "-", "float16": "-.", "bfloat16": "--"}


@dataclass(frozen=True)
class Measured:
    """How far a twin is from the reference, after a pass or a run."""

    what: str
    framework: str
    dtype: Dtype
    differences: Differences


def draw_layers(measured: list[Measured], out: Path) -> None:
    """Draw the difference of each sub-layer's output, for each twin and dtype."""
    figure, axes = plt.subplots(figsize=(9, 4.8), layout="constrained")
    for m in measured:
        layers = m.differences["layers"] | m.differences["logits"]
        errors = [max(error, FLOOR) for error in layers.values()]
        axes.semilogy(list(layers), errors, **look(m))
    axes.tick_params(axis="x", rotation=90, labelsize=8)
    axes.set_ylabel("relative difference from the reference")
    axes.legend(frameon=False, ncols=3, fontsize=8)
    save(figure, out)


def draw_gradients(measured: list[Measured], out: Path) -> None:
    """Draw the difference of each parameter's gradient in float32, from wte to ln_f."""
    figure, axes = plt.subplots(figsize=(9, 4.4), layout="constrained")
    for m in measured:
        if m.dtype == "float32":
            kinds = [kind(name) for name in m.differences["gradients"]]
            errors = list(m.differences["gradients"].values())
            axes.semilogy(kinds, errors, "o", ms=4, alpha=0.6, color=COLORS[m.framework])
            axes.plot([], [], "o", color=COLORS[m.framework], label=TITLES[m.framework])
    axes.axhline(PROMISES["float32"]["gradients"], color="0.5", lw=1, ls="--")
    axes.annotate("target", (0, PROMISES["float32"]["gradients"]), va="bottom", fontsize=8)
    axes.tick_params(axis="x", rotation=90, labelsize=8)
    axes.set_ylabel("relative difference of the gradient")
    axes.legend(frameon=False)
    save(figure, out)


def kind(name: str) -> str:
    """Return a parameter's name without its layer: the twelve of a kind share a column."""
    parts = name.removeprefix("transformer.").split(".")
    return ".".join(parts[2:] if parts[0] == "h" else parts)


def draw_losses(losses: dict[str, list[float]], out: Path) -> None:
    """Draw the losses of fifty steps, one over the other, and their differences."""
    figure, axes = plt.subplots(figsize=(9, 4.8), layout="constrained")
    colors = COLORS | {"transformers": "#2a9d62"}
    titles = TITLES | {"transformers": "transformers (PyTorch)"}
    axes.plot(losses["reference"], color="0.8", lw=6, label="reference, float64 numpy")
    apart = axes.twinx()
    for (name, color), width in zip(colors.items(), (4, 2, 1), strict=True):
        axes.plot(losses[name], color=color, lw=width, label=titles[name])
        differences = each_relative(losses[name], losses["reference"])
        apart.semilogy(np.maximum(differences, 1e-9), ".", color=color, ms=5)
    apart.set_ylim(1e-9, 1e-2)
    apart.set_ylabel("relative difference from the reference (dots)")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss (nats per token)")
    axes.legend(frameon=False)
    save(figure, out)


def draw_drift(drift: dict[int, list[Measured]], out: Path) -> None:
    """Draw how the losses and the worst weight of a long run part from the reference's."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.4), sharex=True, layout="constrained")
    titles = {"losses": "loss, the worst step so far", "weights": "the worst parameter or moment"}
    for axes, (quantity, title) in zip(panels, titles.items(), strict=True):
        for column in zip(*drift.values(), strict=True):  # one twin and dtype, all lengths
            errors = [max(FLOOR, *m.differences[quantity].values()) for m in column]
            axes.loglog(list(drift), errors, marker=".", **look(column[0]))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("steps")
    panels[0].set_ylabel("relative difference from the reference")
    panels[0].legend(frameon=False, fontsize=8)
    save(figure, out)


def look(m: Measured) -> dict[str, str]:
    """Return the line and the label of a twin and dtype."""
    label = f"{TITLES[m.framework]}, {m.dtype}"
    return {"color": COLORS[m.framework], "linestyle": STYLES[m.dtype], "label": label}


def save(figure: Figure, out: Path) -> None:
    """Write the picture."""
    figure.savefig(out, dpi=120)
    plt.close(figure)
