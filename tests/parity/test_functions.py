"""docs/figures/parity.json says of each function how far it is from the reference."""

import ast
import json
from pathlib import Path

import pytest

from gpt_common.config import Dtype
from tests.faults.fault import find_definition, parse_file
from tests.parity.functions import DTYPES, MODEL, measure_functions
from tests.parity.tolerances import FAST_LIMITS
from tests.parity.twins import FRAMEWORKS

ROOT = Path(__file__).parents[2]
MEASURED = json.loads((ROOT / "docs/figures/parity.json").read_text())
FUNCTIONS = MEASURED["functions"]
STALE = "python -m tests.parity.report --only_functions writes it anew"


@pytest.mark.parametrize("place", FUNCTIONS)
def test_a_function_is_one_of_both_twins(place):
    file, _, name = place.partition("::")
    for package in ("gpt_torch", "gpt_flax"):
        tree = parse_file((ROOT / package / file).read_text())
        assert isinstance(find_definition(tree, name), ast.ClassDef | ast.FunctionDef)


def entries(functions: dict, dtype: Dtype, framework: str) -> dict[tuple, tuple[float, float]]:
    """Return the difference and the limit of each function's output and gradients."""
    return {
        (place, of): (found[dtype][framework], found[dtype]["limit"])
        for place, quantities in functions.items()
        for of, found in quantities.items()
        if dtype in found
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_written_is_within_the_limits(framework, dtype):
    written = entries(FUNCTIONS, dtype, framework)
    assert len(written) > 15
    for place, (difference, limit) in written.items():
        assert limit in vars(FAST_LIMITS[dtype]).values(), STALE
        assert difference <= limit, place


@pytest.mark.parametrize(
    ("framework", "dtype"),
    [
        ("torch", "float64"),
        *(
            pytest.param(framework, dtype, marks=pytest.mark.slow)
            for framework in FRAMEWORKS
            for dtype in DTYPES
            if (framework, dtype) != ("torch", "float64")
        ),
    ],
)
def test_what_is_written_is_measured(framework, dtype):
    """A difference of rounding errors is another on each machine; the limit is the same."""
    assert MEASURED["model"] == MODEL, STALE
    written = entries(FUNCTIONS, dtype, framework)
    found = entries(measure_functions([dtype], [framework]), dtype, framework)
    assert found.keys() == written.keys(), STALE
    for place, (difference, limit) in found.items():
        assert difference <= limit, place
        assert limit == written[place][1], STALE
