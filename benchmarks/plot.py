"""Plot the results of a benchmark.

python -m benchmarks.plot benchmarks/results/train_*.json --out docs/figures/train_step.png
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("agg")  # no display needed
import matplotlib.pyplot as plt
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.implementations import BASELINE, BY_NAME
from benchmarks.report import Result
from gpt_common import cli
from gpt_common.errors import InputError

LIMIT = {"color": "0.25", "linestyle": (0, (2, 1.5)), "linewidth": 1.2}


@dataclass(frozen=True)
class PlotConfig:
    """Plot results of one benchmark: train_step, generate, scaling or gpu."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Files that the benchmark wrote, one panel each."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.png")]
    """The image to write."""


def draw(results: Sequence[Result], out: Path) -> None:
    """Write the plot. Raises `InputError` for results that have none or are of two benchmarks."""
    names = sorted({result["benchmark"] for result in results})
    if len(names) != 1 or names[0] not in PLOTS:
        raise InputError(
            f"expected results of one benchmark of {', '.join(PLOTS)}, got {', '.join(names)}"
        )
    figure = PLOTS[names[0]](results)
    found = sorted({report.title(result) for result in results})
    figure.supxlabel("\n".join(found), fontsize=7.5, color="0.4")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def succeeded(programs: Sequence[Result]) -> list[Result]:
    """Return the results without an error. Raises `InputError` if there are none."""
    done = [program for program in programs if "error" not in program]
    if not done:
        raise InputError("nothing to plot: every implementation failed")
    return done


def style_axes(axes: Axes, grid: str) -> None:
    """Draw a light grid, and no frame above and to the right."""
    axes.grid(alpha=0.25, axis=grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels in rows of two."""
    columns = min(count, 2)
    rows = math.ceil(count / columns)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for unused in axes.flat[count:]:
        unused.remove()
    return figure, list(axes.flat[:count])


def speed_up(figures: Result) -> str:
    """Return the speed-up over the baseline as text, empty if the baseline was not measured."""
    ratio = figures.get("times", {}).get(BASELINE)
    return f"{ratio:.2f}x" if ratio else ""


def bars(axes: Axes, labels: Sequence[str], found: Sequence[Result], words: Sequence[str]) -> None:
    """Draw tokens per second as horizontal bars from the top, with text to their right."""
    rows = range(len(found))
    speeds = [figures["tokens_per_second"] for figures in found]
    axes.barh(rows, speeds, 0.66, color=[color(name) for name in labels])
    axes.set_yticks(rows, labels, fontsize=9)
    axes.invert_yaxis()
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(rows, words, fontsize=9)
    beside.spines["right"].set_visible(False)
    for axis in (axes, beside):
        axis.tick_params("y", length=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params("x", labelsize=8)
    axes.set_xlabel("tokens per second", fontsize=9)
    style_axes(axes, "x")


def mark_limit(axes: Axes, bars: int, limits: Sequence[float]) -> None:
    """Draw the upper limit of the bars, the highest if each has its own, as one line."""
    if limits:
        axes.vlines(max(limits), -0.42, bars - 0.58, **LIMIT)


def color(name: str) -> str:
    """Return an implementation's colour."""
    return BY_NAME[name].color


def draw_train_step(results: Sequence[Result]) -> Figure:
    """Plot one panel per result: throughput, step time, speed-up, and the limit by matmul peak."""
    figure, all_axes = panels(len(results), 6.4, 3.4)
    for axes, result in zip(all_axes, results, strict=True):
        train_step_panel(axes, result)
    figure.suptitle(
        f"Training: the speed-up is over {BASELINE}; the dashed line is\n"
        "the speed of the fastest matmul, PyTorch's or JAX's, in the same run",
        fontsize=8.5,
    )
    return figure


def train_step_panel(axes: Axes, result: Result) -> None:
    """Plot one result of train_step."""
    done = succeeded(result["programs"])
    words = [
        f"{p['tokens_per_second']:,.0f} tokens/s   {speed_up(p)}\n"
        f"{p['milliseconds']['median']:,.0f} ms/step"
        for p in done
    ]
    bars(axes, [p["name"] for p in done], done, words)
    flops = result["flops"]["per_token"]
    mark_limit(axes, len(done), [p["matmul_peak"] / flops for p in done if "matmul_peak" in p])
    options = result["options"]
    axes.set_title(
        f"{options['preset']}, {options['dtype']}, B={options['batch_size']}, "
        f"T={options['seq_len']}{', torch compiled' if options['compile'] else ''}",
        fontsize=10,
    )


def draw_generate(results: Sequence[Result]) -> Figure:
    """Plot one panel per result and case: throughput and its limit."""
    parts = [(r, i) for r in results for i in range(len(succeeded(r["programs"])[0]["cases"]))]
    figure, all_axes = panels(len(parts), 5.4, 3.2)
    for axes, (result, i) in zip(all_axes, parts, strict=True):
        done = succeeded(result["programs"])
        cases = [program["cases"][i] for program in done]
        words = [f"{case['tokens_per_second']:,.0f} tokens/s\n{speed_up(case)}" for case in cases]
        bars(axes, [program["name"] for program in done], cases, words)
        name = "limit_tokens_per_second"
        mark_limit(axes, len(cases), [case[name] for case in cases if name in case])
        axes.set_title(
            f"{result['options']['preset']}, {result['options']['dtype']}, "
            f"B={cases[0]['batch_size']}, {cases[0]['prompt_length']} + "
            f"{cases[0]['new_tokens']} tokens",
            fontsize=10,
        )
    figure.suptitle(
        f"Generation: the speed-up is over {BASELINE}; the dashed line is the limit\n"
        "by memory bandwidth, or by matmuls if that is lower, in the same run",
        fontsize=8.5,
    )
    return figure


def draw_scaling(results: Sequence[Result]) -> Figure:
    """Plot one panel per axis: milliseconds per step over the size."""
    series = [(axis, points) for r in results for axis, points in r["series"].items() if points]
    figure, all_axes = panels(len(series), 3.5, 3.4)
    words = {"depth": "blocks", "width": "n_embd", "context": "T", "batch": "B"}
    for axes, (axis, points) in zip(all_axes, series, strict=True):
        for name in dict.fromkeys(p["name"] for point in points for p in point["programs"]):
            curve = [
                (point["value"], p["milliseconds"]["median"])
                for point in points
                for p in point["programs"]
                if p["name"] == name and "error" not in p
            ]
            axes.plot(*zip(*curve, strict=True), marker="o", color=color(name), label=name)
        values = [point["value"] for point in points]
        axes.set_xticks(values, [f"{value}" for value in values])
        axes.set_title(axis, fontsize=10)
        axes.set_xlabel(words[axis], fontsize=9)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylim(bottom=0)
        style_axes(axes, "both")
    all_axes[0].set_ylabel("ms/step", fontsize=9)
    all_axes[0].legend(frameon=False, fontsize=8)
    return figure


def draw_gpu(results: Sequence[Result]) -> Figure:
    """Plot the lecture's optimisations, one panel per framework."""
    (result,) = results
    variants: dict[str, list[Result]] = {name: [] for name in ("torch", "flax", BASELINE)}
    for variant in succeeded(result["ladder"]):
        variants[variant["name"]].append(variant)
    shown = {name: found for name, found in variants.items() if found}
    figure, all_axes = panels(len(shown), 5.2, 3.6)
    fastest = max(variant["tokens_per_second"] for found in shown.values() for variant in found)
    for axes, (name, found) in zip(all_axes, shown.items(), strict=True):
        variants_panel(axes, name, found)
        axes.set_xlim(0, 1.04 * fastest)
        axes.set_ylim(max(map(len, shown.values())) - 0.5, -0.5)  # the same bar thickness in each
    sizes = sorted({f"B={variant['batch_size']}" for found in shown.values() for variant in found})
    figure.suptitle(
        f"The lecture's optimisations: {result['options']['preset']}, T={result['seq_len']}, "
        f"{' and '.join(sizes)}; ms/step and tokens per second",
        fontsize=9.5,
    )
    return figure


def variants_panel(axes: Axes, name: str, found: Sequence[Result]) -> None:
    """Plot the variants of one framework."""
    words = [
        f"{v['milliseconds']['median']:,.0f} ms\n{v['tokens_per_second']:,.0f} tokens/s"
        for v in found
    ]
    bars(axes, [name] * len(found), found, words)
    axes.set_yticks(range(len(found)), [variant["label"] for variant in found])
    axes.set_title(name, fontsize=10)


PLOTS: dict[str, Callable[[Sequence[Result]], Figure]] = {
    "train_step": draw_train_step,
    "generate": draw_generate,
    "scaling": draw_scaling,
    "gpu": draw_gpu,
}


def main() -> None:
    """Run the command line."""
    config = cli.parse(PlotConfig, "benchmarks.plot")
    if not config.results:
        raise InputError("expected one or more result files (--help lists the flags)")
    draw([report.read(path) for path in config.results], config.out)
    print(f"wrote {config.out}")


if __name__ == "__main__":
    cli.run(main)
