"""A fault replaces the one place that it names, and the command reports a fault that survives."""

import pytest

from gpt_common.errors import InputError
from tests.conftest import assert_one_line_error
from tests.faults.fault import Fault

SOURCE = """
RATES = {"é": 1, "b": 2}

class Loss:
    @cache
    def mean(self, losses, scale=3):
        total = 2 * sum(losses)  # of all
        if total:
            log(f"mean of {total}")
            log('done')
        return total / len(
            losses
        )

    def total(self, losses):
        return sum(losses)
"""


@pytest.mark.parametrize(
    ("place", "before", "after", "old", "new"),
    [
        (
            "::Loss.total",
            "sum(losses)",
            "max(losses)",
            "return sum(losses)",
            "return max(losses)",
        ),
        ("::Loss.mean", "sum(losses)", "a + b", "2 * sum(losses)", "2 * (a + b)"),
        ("::Loss.mean", "len(losses)", "1", "len(\n            losses\n        )", "1"),
        ("::Loss.mean", "3", "4", "scale=3", "scale=4"),
        ("::Loss.mean", "cache", "property", "@cache", "@property"),
        ("::Loss.mean", 'f"mean of {total}"', '"mean"', 'f"mean of {total}"', '"mean"'),
        ("::Loss.mean", "total = 2 * sum(losses)", "pass", "total = 2 * sum(losses)", "pass"),
        (
            "::Loss.mean",
            """
            log(f"mean of {total}")
            log("done")
            """,
            """
            for text in texts:
                log(text)
            """,
            """log(f"mean of {total}")\n            log('done')""",
            "for text in texts:\n                log(text)",
        ),
        ("::RATES", '"b": 2', "**{}", '"b": 2', "**{}"),
        ("::RATES", '"é": 1, "b": 2', '"b": 1', '"é": 1, "b": 2', '"b": 1'),
        ("", "2 * sum(losses)", "0", "2 * sum(losses)", "0"),
    ],
)
def test_a_fault_changes_its_place_alone(place, before, after, old, new):
    assert SOURCE.count(old) == 1
    fault = Fault("a fault", f"loss.py{place}", before, after)
    assert fault.apply(SOURCE) == SOURCE.replace(old, new)


@pytest.mark.parametrize(
    ("place", "before", "message"),
    [
        ("loss.py::Loss.mean", "max(losses)", "'max(losses)' once in loss.py::Loss.mean, got 0"),
        ("loss.py", "sum(losses)", "'sum(losses)' once in loss.py, got 2"),
        ("loss.py::Loss.median", "sum(losses)", "one definition of Loss.median, got 0"),
    ],
)
def test_a_fault_that_does_not_fit(place, before, message):
    with pytest.raises(InputError, match="expected") as error:
        Fault("a fault", place, before, "0").apply(SOURCE)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("test", "code", "word"), [("assert False", 0, "caught"), ("assert True", 1, "MISSED")]
)
def test_a_fault_is_caught_or_survives(test, code, word, call, tmp_path, monkeypatch):
    (tmp_path / "test_one.py").write_text(f"def test_one():\n    {test}\n")
    harmless = Fault("harmless", "tests/conftest.py::CPU", '"cpu"', '"c" "pu"')
    monkeypatch.setattr("tests.faults.__main__.FAULTS", (harmless,))
    result = call("tests.faults.__main__", "--tests", tmp_path / "test_one.py", "--jobs", 1)
    assert result.returncode == code
    assert word in result.stdout


def test_a_name_that_does_not_exist(call):
    assert_one_line_error(
        call("tests.faults.__main__", "--only", "no such fault"), "got no such fault"
    )
