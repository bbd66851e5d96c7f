"""Faults of the site: pages that are built of what does not fit together."""

from tests.faults.fault import Fault

FAULTS = (
    Fault(
        "site: a function without a partner is shown alone",
        "docs/_twins/pairs.py::pairs",
        """raise ValueError(
            f"expected these in both twins, in the same order: {', '.join(alone)}"
        )""",
        "pass",
    ),
    Fault(
        "site: methods have one name only in both twins",
        "docs/_twins/pairs.py::SAME_NAME",
        '"setup": "__init__"',
        "**{}",
    ),
    Fault(
        "site: a line without a partner pushes the next one away",
        "docs/_twins/align.py::align",
        "max(together, best[i + 1][j], best[i][j + 1])",
        "max(together, best[i + 1][j])",
    ),
    Fault(
        "site: a number that was edited is shown",
        "docs/_twins/figures.py::read_measured",
        'data["sha256"] != checksum(data)',
        'not data["sha256"]',
    ),
    Fault(
        "site: NaN is within any limit",
        "docs/_twins/figures.py::_found",
        "not (found.torch <= found.limit and found.flax <= found.limit)",
        "max(found.torch, found.flax) > found.limit",
    ),
    Fault(
        "site: a note may be about no line",
        "docs/_twins/columns.py::_find",
        "len(found) != 1",
        "False",
    ),
    Fault(
        "site: the line of a fault may be anywhere in the file",
        "docs/_twins/figures.py::_is_in",
        "bool(first <= line <= last)",
        "True",
    ),
    Fault(
        "site: a shape is that of the line before",
        "docs/_twins/shapes.py::_Lines.note",
        "self.previous.lineno",
        "self.previous.lineno + 1",
    ),
    Fault(
        "site: a line whose shape varies has one of them",
        "docs/_twins/shapes.py::observe",
        "len(s) == 1",
        "bool(s)",
    ),
    Fault(
        "site: a line has the shape of a comprehension in it",
        "docs/_twins/shapes.py::_found",
        'not frame.f_code.co_name.startswith("<")',
        "True",
    ),
    Fault(
        "site: a word in a comment is explained",
        "docs/_twins/columns.py::Side.code",
        '("s", "c")',
        '("s",)',
    ),
    Fault(
        "site: notes are numbered as they are listed",
        "docs/_twins/columns.py::Columns.notes",
        "sorted(self.all_notes, key=self._first_row)",
        "self.all_notes",
    ),
    Fault(
        "site: a loss is shown at the first of its steps",
        "docs/_twins/charts.py::_points",
        "(i + 0.5)",
        "i",
    ),
    Fault(
        "site: 0 is where 1e-17 is",
        "docs/_twins/charts.py::position",
        "return 0.0",
        "pass",
    ),
    Fault(
        "site: a column counts its lines from 1",
        "docs/_twins/columns.py::_column",
        "part.start - 1 if part else 0",
        "0",
    ),
    Fault(
        "site: a fault of the loss is one of the training step",
        "docs/_twins/breaks.py::_first",
        "any(not d < SAME for d in run.gradients.values())",
        "False",
    ),
)
