"""What a fault does: its line, the difference of each layer, and the losses of a run."""

import math
from html import escape

from docs._twins import charts
from docs._twins.figures import Change, Effects, Planted, Run
from docs._twins.text import FRAMEWORKS, number, prose


def article(fault: Planted, change: Change, section: str, effects: Effects) -> str:
    """Return the account of a fault in `section`, complete without JavaScript."""
    intact = effects.intact[fault.framework]
    return (
        f'<article class="break" id="break-{fault.id}" tabindex="-1" data-section="{section}" '
        f'data-side="{fault.framework}" data-line="{change.line}">'
        f"<h3>{prose(fault.name)}</h3><p>{prose(fault.why)}</p>"
        f'<pre class="change"><del>{escape(change.before)}</del>\n'
        f"<ins>{escape(change.after)}</ins></pre>"
        f'<div class="effect">{_layers(fault.run, intact, effects.layers)}'
        f"<div>{_losses(fault.run, intact)}<p>{_caught(fault)}</p></div></div></article>"
    )


def link(fault: Planted, page: str = "") -> str:
    """Return the name of a fault as a link to its account, on this page or another one."""
    framework = FRAMEWORKS[fault.framework]
    return f'<a href="{page}#break-{fault.id}">{prose(fault.name)}</a> ({framework})'


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
    """Return the largest difference of the gradients of a layer's parameters, if it has any.

    NaN is larger than any number.
    """
    own = [d for name, d in run.gradients.items() if layer_of(name) == layer]
    return max(own, key=lambda d: math.inf if math.isnan(d) else d, default=None)


def layer_of(parameter: str) -> str:
    """Return the layer of a parameter of Hugging Face's name; norms are of what follows them."""
    name = parameter.removeprefix("transformer.")
    if name.startswith("h."):
        block, layer = name.split(".")[1:3]
        return f"h.{block}.{ {'ln_1': 'attn', 'ln_2': 'mlp'}.get(layer, layer) }"
    return "embedding" if name.startswith(("wte", "wpe")) else name.partition(".")[0]


def _losses(run: Run, intact: Run) -> str:
    same = run.losses == intact.losses
    end = f"The loss ends at {run.losses[-1]:.4g}, intact at {intact.losses[-1]:.4g}."
    text = "The losses of training are the same." if same else end
    chart = charts.loss_curves(intact.losses, run.losses, text)
    return f"<figure><figcaption>{text}</figcaption>{chart}</figure>"
