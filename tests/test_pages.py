"""What README.md and docs/ tell a reader to type is accepted, and what they name exists."""

import importlib
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gpt_common import cli, commands

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Programs that are not ours, and pytest's flags.
OTHERS = {
    *("cd", "diff", "export", "git", "hf", "lm_eval", "mkdir", "pip", "pytest"),
    *("python3", "sbatch", "source"),
}


def shell_lines(page: Path) -> list[str]:
    """Return the commands of a page: of its `sh` blocks, and of its indented lines."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    blocks += re.findall(r"^ {4}(python -m (?:[^\\\n]|\\\n)*)", text, re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in shell_lines(page)
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


def module_and_flags(line: str) -> tuple[str, list[str]]:
    """Return what a command runs, a module after `-m` or else a program, and its flags."""
    words = [word for word in shlex.split(line.partition(" > ")[0]) if word != "ARGS"]
    if "-m" in words and words[0] not in OTHERS:
        words = words[words.index("-m") + 1 :]
    return words[0], words[1:]


def main_of(module: str) -> Callable[[], None]:
    if module == "gpt-twins":
        return commands.main
    has_main = (ROOT / module.replace(".", "/") / "__main__.py").is_file()
    return importlib.import_module(f"{module}.__main__" if has_main else module).main


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
    assert len(COMMANDS) > 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_test_on_the_page_of_tests_exists():
    page = (ROOT / "tests" / "README.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) >= 15
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
