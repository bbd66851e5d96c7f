"""Each known fault fits the code, whatever its layout, and has tests that should catch it."""

import ast
from functools import cache

import pytest

from tests.faults.__main__ import ROOT, matching_tests
from tests.faults.registry import FAULTS

FILES = sorted({fault.file for fault in FAULTS})


@cache
def read(file: str) -> str:
    return (ROOT / file).read_text()


@cache
def dump(source: str) -> str:
    return ast.dump(ast.parse(source))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_applies_once_and_changes_the_code(fault):
    source = read(fault.file)
    assert dump(fault.apply(source)) != dump(source)


@pytest.mark.parametrize("file", FILES[::16])  # enough of them
def test_the_faults_of_a_file_with_another_layout(file):
    """`ast.unparse` has other line breaks and quotes, and no comments."""
    source = read(file)
    for fault in (fault for fault in FAULTS if fault.file == file):
        assert dump(fault.apply(ast.unparse(ast.parse(source)))) == dump(fault.apply(source))


@pytest.mark.parametrize("file", FILES)
def test_a_file_with_faults_has_tests(file):
    assert list(matching_tests(file, ROOT))


def test_faults_are_many_and_no_two_are_the_same():
    assert len(FAULTS) >= 500
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.place, fault.before, fault.after) for fault in FAULTS}) == len(FAULTS)
