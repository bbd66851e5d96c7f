"""What a fault does: its line, the difference of each layer, and the losses of a run."""

import math
from html import escape
from textwrap import dedent

from docs._twins import charts
from docs._twins.figures import Change, Effects, Planted, Run
from docs._twins.text import FRAMEWORKS, number, prose


def article(fault: Planted, change: Change, source: list[str], section: str, all_: Effects) -> str:
    """Return the account of a fault in `section`, complete without JavaScript."""
    intact = all_.intact[fault.framework]
    return (
        f'<article class="break" id="break-{fault.id}" tabindex="-1" data-section="{section}" '
        f'data-side="{fault.framework}" data-first="{change.first}" data-last="{change.last}">'
        f"<h3>{prose(fault.name)}</h3><p>{prose(fault.why)}</p>"
        f"{_change(change, source)}"
        f'<div class="effect">{_layers(fault.run, intact, all_.layers)}'
        f"<div>{_losses(fault.run, intact)}<p>{_caught(fault)}</p></div></div></article>"
    )


def _change(change: Change, source: list[str]) -> str:
    before = source[change.first - 1 : change.last]
    lines = escape(dedent("\n".join((*before, *change.lines))), quote=False).split("\n")
    removed, added = "\n".join(lines[: len(before)]), "\n".join(lines[len(before) :])
    return f'<pre class="change"><del>{removed}</del>\n<ins>{added}</ins></pre>'


def link(fault: Planted) -> str:
    """Return the name of a fault as a link to its account."""
    framework = FRAMEWORKS[fault.framework]
    return f'<a href="#break-{fault.id}">{prose(fault.name)}</a> ({framework})'


def _caught(fault: Planted) -> str:
    if not fault.caught_by:
        return f"Outcome: {prose(fault.outcome)}."
    return f"Caught by <code>{escape(fault.caught_by)}</code>."


def _layers(run: Run, intact: Run, layers: list[str]) -> str:
    marks = []
    for row, name in enumerate(layers):
        marks.append(charts.circle(intact.layers[row], row, "intact"))
        marks.append(charts.circle(run.layers[row], row, "faulty output"))
        gradient = worst_gradient(run, name)
        if gradient is not None:
            marks.append(charts.square(gradient, row, "faulty gradients"))
    first = next((i for i, d in enumerate(run.layers) if not d < 1e-12), None)
    where = "No layer differs." if first is None else f"The first that differs: {layers[first]}."
    text = " ".join(f"{n} {number(d)}." for n, d in zip(layers, run.layers, strict=True))
    return (
        f"<figure><figcaption>Each layer in float64, from the reference: ● its output, □ "
        f"its gradients; grey: intact. {where}</figcaption>"
        f"{charts.strip(layers, marks, text)}</figure>"
    )


def worst_gradient(run: Run, layer: str) -> float | None:
    """Return the largest difference of the gradients of a layer's own parameters, if it has any.

    NaN is larger than any number.
    """
    own = [
        d
        for name, d in run.gradients.items()
        if name.removesuffix(".bias") == layer or name.removesuffix(".weight") == layer
    ]
    return max(own, key=lambda d: math.inf if math.isnan(d) else d, default=None)


def _losses(run: Run, intact: Run) -> str:
    last, expected = run.losses[-1], intact.losses[-1]
    differ = [i for i, (a, b) in enumerate(zip(run.losses, intact.losses, strict=True)) if a != b]
    since = f"differs from step {differ[0]}" if differ else "is the same"
    text = f"The loss {since}; after {len(run.losses)} steps it is {last:.4g}, not {expected:.4g}."
    if not differ:
        text = "The loss is the same in each step."
    chart = charts.loss_curves(intact.losses, run.losses, text)
    return f"<figure><figcaption>{text}</figcaption>{chart}</figure>"
