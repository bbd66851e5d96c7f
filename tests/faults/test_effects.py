"""docs/figures/faults.json says of each mistake what it is and does today."""

import ast
import json
import re

import pytest

from docs._twins.pairs import SAME_NAME
from gpt_common.weights import weight_shapes
from tests.faults.__main__ import ROOT, faulty_copy
from tests.faults.effects import described, measure_in
from tests.faults.fault import find_definition, parse_file
from tests.faults.measure import CHARACTERS, LOSS_DIGITS, MEAN_OF, MODEL, OPTIONS, measure
from tests.faults.mistakes import MISTAKES, Mistake
from tests.figures import DIGITS
from tests.parity.tolerances import FAST_LIMITS

MEASURED = json.loads((ROOT / "docs/figures/faults.json").read_text())
FAULTS = {fault["id"]: fault for fault in MEASURED["faults"]}
QUICK = "no-mask"  # the others take minutes
STALE = "python -m tests.faults.effects writes it anew"


def definition(place: str) -> str:
    """Return the source of "file.py::name"."""
    file, _, name = place.partition("::")
    source = (ROOT / file).read_text()
    return ast.get_source_segment(source, find_definition(parse_file(source), name))


def test_each_mistake_is_described_as_it_is():
    assert list(FAULTS.values()) == [FAULTS.get(m.id, {}) | described(m) for m in MISTAKES], STALE


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_mistake_is_a_line_of_a_function_that_both_twins_have(mistake):
    fault, nodes = FAULTS[mistake.id], mistake.fault.find((ROOT / mistake.fault.file).read_text())
    assert nodes[0].lineno == nodes[-1].end_lineno
    assert definition(mistake.fault.place).count(fault["before"]) == 1
    assert fault["before"] != fault["after"]
    assert definition(in_the_other_twin(mistake))


def in_the_other_twin(mistake: Mistake) -> str:
    """Return the place of the same function there."""
    ours, theirs = "gpt_torch", "gpt_flax"
    words = {theirs: ours} | SAME_NAME
    if mistake.framework == "torch":
        words = {value: key for key, value in words.items()}
    return "".join(words.get(part, part) for part in re.split(r"(\W+)", mistake.fault.place))


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_mistake_is_seen_and_caught(fault):
    """In a layer, a gradient or a loss, and by a test that there is."""
    intact = MEASURED["intact"][fault["framework"]]
    numbers = [*fault["layers"], *fault["gradients"].values()]
    assert max(map(float, numbers)) > 1e-6 or fault["losses"] != intact["losses"]
    assert fault["outcome"] == "caught"
    test, bracket, values = fault["caught_by"].partition("[")
    assert definition(test)
    assert values.endswith("]") == bool(bracket)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_loss_that_is_too_low_is_explained(fault):
    intact = MEASURED["intact"][fault["framework"]]["losses"][-1]
    assert (fault["losses"][-1] < 0.9 * intact) == ("The loss is low because" in fault["why"])


def test_what_is_measured_of_all():
    assert MEASURED["model"] == MODEL
    assert MEASURED["steps"] == OPTIONS.steps
    for found in (*MEASURED["intact"].values(), *FAULTS.values()):
        assert len(found["layers"]) == len(MEASURED["layers"])
        assert found["gradients"].keys() == weight_shapes(CHARACTERS).keys()
        assert len(found["losses"]) == OPTIONS.steps // MEAN_OF


@pytest.mark.parametrize("framework", ["torch", pytest.param("flax", marks=pytest.mark.slow)])
def test_the_intact_twins_are_as_close_as_they_were(framework):
    """A difference of rounding errors is another on each machine: what is written is within the
    limits, as what is measured now is."""
    written, limits = MEASURED["intact"][framework], FAST_LIMITS["float64"]
    found = measure(framework, MEAN_OF)
    assert list(found["layers"]) == MEASURED["layers"]
    assert max(*written["layers"], *found["layers"].values()) <= limits.layers
    gradients = *written["gradients"].values(), *found["gradients"].values()
    assert max(gradients) <= limits.gradients
    assert found["losses"][0] == near(written["losses"][0], LOSS_DIGITS), STALE


@pytest.mark.parametrize(
    "mistake",
    [pytest.param(m, marks=[pytest.mark.slow] * (m.id != QUICK), id=m.id) for m in MISTAKES],
)
def test_a_mistake_does_what_it_did(mistake):
    written = FAULTS[mistake.id]
    with faulty_copy(mistake.fault) as copy:
        found = measure_in(copy, mistake.framework, MEAN_OF)
    assert list(found["layers"].values()) == near(written["layers"], DIGITS), STALE
    assert found["gradients"] == near(written["gradients"], DIGITS), STALE
    assert found["losses"][0] == near(written["losses"][0], LOSS_DIGITS), STALE


def near(written, digits: int):
    """Return what equals numbers that were rounded; of rounding errors nothing more is asked."""
    return pytest.approx(written, rel=10.0 ** (1 - digits), abs=FAST_LIMITS["float64"].gradients)
