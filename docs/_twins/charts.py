"""Charts as inline SVG: differences on a logarithmic axis, and losses of two runs."""

import math
from collections.abc import Iterable, Sequence
from html import escape

SMALLEST, LARGEST = -17, 0  # exponents of ten, at the ends of the axis
START = 5  # percent, where the logarithmic axis starts: 0 is to the left of it
TICKS = (0.0, 1e-15, 1e-10, 1e-5, 1.0)  # where the labels have room on a phone
ROW = 22  # pixels, with a lane for outputs and one for gradients below it
LANES = {"output": 7, "gradients": 16}
FRONT, BEHIND = 3.5, 5.0  # radii of marks, so that both are seen where they meet
MAX_TICKS = 5  # on the axis of losses


def position(difference: float) -> float:
    """Return where a difference is on the axis, in percent: 0 apart from all others.

    Less than 1e-17 is where 1e-17 is, and more than 1, or NaN, where 1 is.
    """
    if difference == 0:
        return 0.0
    exponent = math.log10(max(difference, 10.0**SMALLEST)) if difference < 1 else LARGEST
    share = (exponent - SMALLEST) / (LARGEST - SMALLEST)
    return round(START + (100 - START) * share, 1)


def circle(difference: float, row: int, kind: str, radius: float = FRONT) -> str:
    """Return a round mark, in the lane that `kind` names."""
    x, y = position(difference), row * ROW + _lane(kind)
    return f'<circle class="{kind}" cx="{x}%" cy="{y}" r="{radius}"/>'


def square(difference: float, row: int, kind: str) -> str:
    """Return a square mark, whose corners are seen behind a round one."""
    x, y = position(difference), row * ROW + _lane(kind)
    return (
        f'<svg x="{x}%" y="{y}" overflow="visible">'
        f'<rect class="{kind}" x="-4.5" y="-4.5" width="9" height="9"/></svg>'
    )


def limit(difference: float, row: int, kind: str) -> str:
    """Return a line at a limit."""
    x, y = position(difference), row * ROW
    return f'<line class="{kind}" x1="{x}%" x2="{x}%" y1="{y + 1}" y2="{y + ROW - 1}"/>'


def _lane(kind: str) -> int:
    return LANES["gradients" if "gradients" in kind else "output"]


def _axis(height: int) -> str:
    """Return the line below a chart, cut between 0 and the logarithmic part."""
    y = f'y1="{height}" y2="{height}"'
    return (
        f'<line class="axis" x1="{START}%" x2="100%" {y}/><svg x="{START / 2}%" y="{height}" '
        'overflow="visible"><path class="axis" d="M-4 5 0-5M0 5 4-5"/></svg>'
    )


def strip(labels: Sequence[str], marks: Iterable[str], description: str) -> str:
    """Return a chart with a row for each label, above the axis: 0, then 1e-17 to 1."""
    height = ROW * len(labels)
    grid = "".join(
        f'<line class="grid" x1="{position(tick)}%" x2="{position(tick)}%" y1="0" y2="{height}"/>'
        for tick in TICKS
    )
    ticks = "".join(f'<span style="left:{position(tick)}%">{tick:.0g}</span>' for tick in TICKS)
    names = "".join(f"<span>{escape(label)}</span>" for label in labels)
    return (
        f'<div class="strip"><div class="labels" aria-hidden="true">{names}</div><div class="plot">'
        f'<svg role="img" aria-label="{escape(description)}" width="100%" height="{height}">'
        f"{grid}{_axis(height)}{''.join(marks)}</svg>"
        f'<div class="ticks" aria-hidden="true">{ticks}</div></div></div>'
    )


def loss_curves(
    intact: Sequence[float], faulty: Sequence[float], steps: int, description: str
) -> str:
    """Return both curves over `steps`, each loss in the middle of the steps that it is the mean of.

    A faulty loss above the highest shown is at the top.
    """
    ticks = round_ticks(
        min(loss for loss in (*intact, *faulty) if math.isfinite(loss)), max(intact)
    )
    low, high = ticks[0], highest(intact)
    lines = "".join(
        f'<polyline class="{kind}" points="{_points(losses, low, high)}"/>'
        for kind, losses in (("intact", intact), ("faulty", faulty))
    )
    heights = {tick: _height(tick, low, high) for tick in ticks}
    grid = "".join(f'<path class="grid" d="M0 {y}H100"/>' for y in heights.values())
    labels = "".join(f'<span style="top:{y}%">{tick:g}</span>' for tick, y in heights.items())
    return (
        f'<div class="losses"><div class="range" aria-hidden="true">{labels}</div>'
        f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 100 100" '
        f'preserveAspectRatio="none" width="100%" height="120">{grid}{lines}</svg>'
        f'<div class="steps" aria-hidden="true"><span>step 1</span><span>{steps}</span></div></div>'
    )


def highest(intact: Sequence[float]) -> float:
    """Return the highest loss that a chart shows."""
    return 1.25 * max(intact)


def round_ticks(low: float, high: float) -> list[float]:
    """Return at most `MAX_TICKS` round numbers at one distance, the first of them below `low`.

    The distance is 1, 2 or 5 times a power of ten.
    """
    power = 10.0 ** math.floor(math.log10((high - low) / MAX_TICKS))
    for factor in (1, 2, 5, 10, 20):
        distance = factor * power
        first, last = math.floor(low / distance), math.floor(high / distance)
        if last - first < MAX_TICKS:
            break
    return [round(i * distance, 10) for i in range(first, last + 1)]


def _points(losses: Sequence[float], low: float, high: float) -> str:
    points = []
    for i, loss in enumerate(losses):
        if math.isnan(loss):
            break
        x = 100 * (i + 0.5) / len(losses)
        points.append(f"{x:.4g},{_height(min(loss, high), low, high)}")
    return " ".join(points)


def _height(loss: float, low: float, high: float) -> float:
    """Return where a loss is, in percent from the top."""
    return round(97 - 94 * (loss - low) / (high - low), 2)
