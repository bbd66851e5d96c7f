"""What a fault does: its line, the difference of each layer, and the losses of a run."""

import math
from html import escape

from docs._twins import charts
from docs._twins.figures import Change, Effects, Planted, Run
from docs._twins.text import FRAMEWORKS, number, prose

SAME = 1e-12  # differences below it are rounding, in float64


def article(fault: Planted, change: Change, section: str, effects: Effects) -> str:
    """Return the account of a fault in `section`, complete without JavaScript."""
    intact = effects.intact[fault.framework]
    return (
        f'<article class="break" id="break-{fault.id}" tabindex="-1" data-section="{section}" '
        f'data-side="{fault.framework}" data-line="{change.line}">'
        f"<h3>{prose(fault.name)}</h3>"
        f'<p><a class="line" href="#{fault.framework}-{change.line}">'
        f"<code>{escape(fault.file)}:{change.line}</code></a> {prose(fault.why)}</p>"
        f'<pre class="change">{_changed(change)}</pre>{_outcome(fault, intact, effects)}'
        f'<div class="effect">{_layers(fault.run, intact, effects.layers)}'
        f"{_losses(fault.run, intact, effects.steps)}</div></article>"
    )


def _changed(change: Change) -> str:
    added = (f"<ins>{escape(line)}</ins>" for line in change.after.split("\n"))
    return "\n".join((f"<del>{escape(change.before)}</del>", *added))


def _outcome(fault: Planted, intact: Run, effects: Effects) -> str:
    """Return the answers to the three questions that a reader has first."""
    steps, each = effects.steps, effects.steps // len(intact.losses)
    rows = {
        "First layer whose output differs": prose(_first(fault.run, effects.layers)),
        f"Mean loss of steps {steps - each + 1} to {steps}": _last_loss(fault.run, intact),
        "Caught by": _breakable(fault.caught_by) if fault.caught_by else prose(fault.outcome),
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in rows.items())
    return f'<dl class="outcome simple">{items}</dl>'


def _first(run: Run, layers: list[str]) -> str:
    first = next((i for i, d in enumerate(run.layers) if not d < SAME), None)
    if first is not None:
        return f"`{layers[first]}`"
    if any(not d < SAME for d in run.gradients.values()):
        return "none, but the gradients do: the fault is in the loss"
    return "none, nor do the gradients: the fault is in the training step"


def _last_loss(run: Run, intact: Run) -> str:
    if run.losses == intact.losses:
        return "the same with the fault as without"
    return f"<b>{_loss(run)}</b> with the fault, {_loss(intact)} without"


def _loss(run: Run) -> str:
    """Return the last loss, as many digits of it as were measured."""
    return f"{run.losses[-1]:#.4g}"


def _breakable(test: str) -> str:
    """Return a test's name, which a browser may break before its function and parameters."""
    return f"<code>{escape(test).replace('::', '::<wbr>').replace('[', '<wbr>[')}</code>"


def link(fault: Planted, page: str = "") -> str:
    """Return the name of a fault as a link to its account, on this page or another one."""
    framework = FRAMEWORKS[fault.framework]
    return f'<a href="{page}#break-{fault.id}">{prose(fault.name)}</a> ({framework})'


def _layers(run: Run, intact: Run, layers: list[str]) -> str:
    marks = []
    for row, name in enumerate(layers):
        marks.append(charts.circle(intact.layers[row], row, "intact", charts.BEHIND))
        marks.append(charts.circle(run.layers[row], row, "faulty output"))
        gradient = worst_gradient(run, name)
        if gradient is not None:
            marks.append(charts.square(gradient, row, "faulty gradients"))
    text = " ".join(f"{n} {number(d)}." for n, d in zip(layers, run.layers, strict=True))
    return (
        "<figure><figcaption>Relative difference of each layer from the reference: "
        '<span class="key faulty">● output, □ gradients</span>; '
        '<span class="key intact">● output without the fault</span></figcaption>'
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


def _losses(run: Run, intact: Run, steps: int) -> str:
    text = f"The loss ends at {_loss(run)}, intact at {_loss(intact)}."
    each = steps // len(intact.losses)
    is_cut = any(loss > charts.highest(intact.losses) for loss in run.losses)
    cut = ", at the top where it is higher than the chart" if is_cut else ""
    return (
        f"<figure><figcaption>Loss while training, the mean of each {each} steps: "
        f'<span class="key faulty">━ with the fault</span>{cut}, '
        '<span class="key intact">━ without</span></figcaption>'
        f"{charts.loss_curves(intact.losses, run.losses, steps, text)}</figure>"
    )
