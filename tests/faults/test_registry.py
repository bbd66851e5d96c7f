"""The registry fits the code, and the command tells a survivor."""

import pytest

from tests.conftest import assert_one_line_error
from tests.faults.__main__ import ROOT
from tests.faults.fault import Fault
from tests.faults.registry import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_has_one_place_and_still_compiles(fault):
    text = (ROOT / fault.file).read_text()
    assert text.count(fault.old) == 1
    assert fault.old != fault.new
    compile(text.replace(fault.old, fault.new), fault.file, "exec")


def test_there_are_many_and_each_has_its_name():
    assert len(FAULTS) >= 50
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize(
    ("test", "code", "word"), [("assert False", 0, "caught"), ("assert True", 1, "MISSED")]
)
def test_a_fault_is_caught_or_survives(test, code, word, call, tmp_path, monkeypatch):
    (tmp_path / "test_one.py").write_text(f"def test_one():\n    {test}\n")
    harmless = Fault("harmless", "LICENSE", "Permission is", "permission is")
    monkeypatch.setattr("tests.faults.__main__.FAULTS", (harmless,))
    result = call("tests.faults.__main__", "--tests", tmp_path / "test_one.py", "--jobs", 1)
    assert result.returncode == code
    assert word in result.stdout


def test_a_name_that_is_not_there(call):
    assert_one_line_error(
        call("tests.faults.__main__", "--only", "no such fault"), "got no such fault"
    )
