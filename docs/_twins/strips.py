"""How far a function of both twins is from the reference: a chart, and the same as a table."""

from docs._twins import charts
from docs._twins.figures import DTYPES, Differences, Found
from docs._twins.text import FRAMEWORKS, number

CAPTION = (
    "<figcaption>Relative difference from the reference: "
    '<span class="key torch">● PyTorch</span>, <span class="key flax">■ Flax</span>. {gradients}'
    "A {solid}line is the largest difference that the tests allow{dashed}.</figcaption>"
)
WITH_GRADIENTS = {
    "gradients": "Filled marks are of outputs, hollow marks of gradients. ",
    "solid": "solid ",
    "dashed": " for outputs, a dashed line for gradients",
}


def figure(name: str, differences: Differences) -> str:
    """Return the chart and the table of a function."""
    dtypes = [dtype for dtype in DTYPES if dtype in differences["output"]]
    marks = [
        mark
        for kind, found in differences.items()
        for dtype, one in found.items()
        for mark in _marks(kind, one, dtypes.index(dtype))
    ]
    chart = charts.strip(dtypes, marks, f"Differences of {name}. {_summary(differences)}")
    return (
        f'<figure class="parity" data-function="{name}">{_caption(differences)}{chart}'
        f"<details><summary>Numbers</summary>{_table(differences)}</details></figure>"
    )


def _caption(differences: Differences) -> str:
    has_gradients = "gradients" in differences
    return CAPTION.format(
        **(WITH_GRADIENTS if has_gradients else dict.fromkeys(WITH_GRADIENTS, ""))
    )


def _marks(kind: str, found: Found, row: int) -> list[str]:
    return [
        charts.limit(found.limit, row, f"limit {kind}"),
        charts.square(found.flax, row, f"flax {kind}"),
        charts.circle(found.torch, row, f"torch {kind}"),
    ]


def _summary(differences: Differences) -> str:
    return " ".join(
        f"{kind.capitalize()} in {dtype}: PyTorch {number(one.torch)}, Flax {number(one.flax)}, "
        f"limit {number(one.limit)}."
        for kind, found in differences.items()
        for dtype, one in found.items()
    )


def _table(differences: Differences) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in (*FRAMEWORKS.values(), "limit"))
    rows = "".join(
        f'<tr><th scope="row">{kind}</th><th scope="row">{dtype}</th>'
        + "".join(f"<td>{number(n)}</td>" for n in (one.torch, one.flax, one.limit))
        + "</tr>"
        for kind, found in differences.items()
        for dtype, one in found.items()
    )
    return (
        '<table><thead><tr><th scope="col">of</th><th scope="col">dtype</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table>"
    )
