"""The page on the tests names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_test_on_the_page_exists():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (TESTS / "README.md").read_text())
    assert len(named) >= 15
    for file, name in named:
        assert f"def {name}(" in (TESTS / file).read_text(), f"{file}::{name}"
