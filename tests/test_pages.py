"""What README.md and docs/ tell a reader to type is accepted, and what they name exists."""

import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gpt_common import cli
from tests.pages import OTHERS, PAGES, ROOT, commands_of, main_of, module_and_flags

COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in commands_of(page)
]


class ParsedError(Exception):
    """The flags were accepted."""


@pytest.fixture
def only_parse(monkeypatch):
    """Let a command parse its flags and do nothing."""
    parse = cli.parse

    def parse_and_stop(*arguments, **options):
        parse(*arguments, **options)
        raise ParsedError

    monkeypatch.setattr(cli, "parse", parse_and_stop)
    monkeypatch.setattr(cli, "typed_as", None)  # which gpt-twins sets, for its process


# A module that another command has imported is run again.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_accepted(line, only_parse, monkeypatch):
    program, flags = module_and_flags(line)
    if program == "make":
        assert re.search(rf"^{flags[0]}:", (ROOT / "Makefile").read_text(), re.M)
    elif program not in OTHERS:
        monkeypatch.setattr(sys, "argv", [program, *flags])
        whole = {"--help", "completion"} & set(flags)  # these parse nothing, and end
        with suppress(SystemExit) if whole else pytest.raises(ParsedError):
            main_of(program)()


def test_the_pages_have_commands():
    assert len(COMMANDS) > 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_a_heading_leads_to_it(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        assert anchor in anchors(page.parent / target if target else page), f"{target}#{anchor}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_proof_in_the_readme_is_that_of_the_page():
    """Each pair of figures in its table, PyTorch / Flax, is a row of GPT-2 124M."""
    proof = (ROOT / "README.md").read_text().partition("## The proof")[2].partition("\n## ")[0]
    pairs = re.findall(r"(\d\.\de-\d\d) / (\d\.\de-\d\d)", proof)
    assert len(pairs) == 7
    rows = (ROOT / "docs" / "numerics.md").read_text()
    for torch, flax in pairs:
        assert re.search(rf"\| 124M, .* \| {torch} \| {flax} \|", rows), (torch, flax)


def test_every_test_on_the_page_of_tests_exists():
    page = (ROOT / "tests" / "README.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) >= 15
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
