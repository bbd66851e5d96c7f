"""Charts as inline SVG: differences on a logarithmic axis, and losses of two runs."""

import math
from collections.abc import Iterable, Sequence
from html import escape

SMALLEST, LARGEST = -17, 0  # exponents of ten, at the ends of the axis
TICKS = (0.0, 1e-15, 1e-10, 1e-5, 1.0)  # where the labels have room on a phone
ROW = 18  # pixels


def position(difference: float) -> float:
    """Return where a difference is on the axis, in percent; 0 and less than 1e-17 at its start."""
    if math.isnan(difference):
        return 100.0
    exponent = math.log10(max(difference, 10.0**SMALLEST)) if difference < 1 else LARGEST
    return round(100 * (exponent - SMALLEST) / (LARGEST - SMALLEST), 1)


def circle(difference: float, row: int, kind: str) -> str:
    """Return a mark for PyTorch."""
    return f'<circle class="{kind}" cx="{position(difference)}%" cy="{_middle(row)}" r="4"/>'


def square(difference: float, row: int, kind: str) -> str:
    """Return a mark for Flax: 7 pixels wide, so that both are seen where they meet."""
    x, y = position(difference), _middle(row) - 3.5
    return (
        f'<svg x="{x}%" y="{y}" overflow="visible">'
        f'<rect class="{kind}" x="-3.5" width="7" height="7"/></svg>'
    )


def limit(difference: float, row: int, kind: str) -> str:
    """Return a line at a limit."""
    x, y = position(difference), row * ROW
    return f'<line class="{kind}" x1="{x}%" x2="{x}%" y1="{y + 1}" y2="{y + ROW - 1}"/>'


def _middle(row: int) -> float:
    return row * ROW + ROW / 2


def strip(labels: Sequence[str], marks: Iterable[str], description: str) -> str:
    """Return a chart with a row for each label, above the axis from 1e-17 to 1."""
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
        f"{grid}{''.join(marks)}</svg>"
        f'<div class="ticks" aria-hidden="true">{ticks}</div></div></div>'
    )


def loss_curves(intact: Sequence[float], faulty: Sequence[float], description: str) -> str:
    """Return both curves over the steps; a faulty loss above the highest shown is cut off."""
    low = min(loss for loss in (*intact, *faulty) if math.isfinite(loss))
    high = 1.25 * max(intact)
    top, bottom = (f"<span>{loss:.1f}</span>" for loss in (high, low))
    lines = "".join(
        f'<polyline class="{kind}" points="{_points(losses, low, high)}"/>'
        for kind, losses in (("intact", intact), ("faulty", faulty))
    )
    return (
        f'<div class="losses"><div class="range" aria-hidden="true">{top}{bottom}</div>'
        f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 100 100" '
        f'preserveAspectRatio="none" width="100%" height="120">{lines}</svg>'
        f'<div class="steps" aria-hidden="true"><span>step 0</span><span>{len(intact) - 1}</span>'
        "</div></div>"
    )


def _points(losses: Sequence[float], low: float, high: float) -> str:
    points = []
    for step, loss in enumerate(losses):
        if math.isnan(loss):
            break
        share = (min(loss, high) - low) / (high - low)
        points.append(f"{100 * step / max(len(losses) - 1, 1):.4g},{97 - 94 * share:.4g}")
    return " ".join(points)
