"""The page docs/arithmetic.md: its formulas are evaluated, and its commands run."""

import re
import shlex

import pytest

from tests.pages import ROOT, blocks

PATH = ROOT / "docs" / "arithmetic.md"
PAGE = PATH.read_text()
FORMULAS = re.findall(r"^\| (\w+)(\*?) \| `(.+?)` \| ([\d.,e+]+) ?([\w/%]*) \|", PAGE, re.MULTILINE)
COMMANDS = [
    block.code.removeprefix("$ python -m ").split("\n", 1)
    for block in blocks(PATH)
    if block.language == "console"
]
UNITS = {"": 1, "s": 1, "h": 1, "min": 1, "%": 0.01, "GB": 1e9, "MB/s": 1e6, "kB/s": 1e3}


def evaluated():
    names = {"__builtins__": {"int": int}}
    for name, _, formula, *_ in FORMULAS:
        names[name] = eval(formula, names)
    return names


def half_a_digit(number):
    """Half of the last digit that is written."""
    digits, _, exponent = number.partition("e")
    decimals = len(digits.partition(".")[2])
    return 0.5000001 * 10 ** (int(exponent or 0) - decimals)


def printed(call, command):
    module, *args = shlex.split(command)
    result = call(module, *args)
    assert result.returncode == 0, result.stderr
    return [line.rstrip() for line in result.stdout.splitlines() if line.strip()]


@pytest.mark.parametrize(("name", "number", "unit"), [(f[0], f[3], f[4]) for f in FORMULAS])
def test_each_value_is_its_formulas(name, number, unit):
    assert abs(evaluated()[name] / UNITS[unit] - float(number.replace(",", ""))) <= half_a_digit(
        number
    )


@pytest.mark.parametrize(("command", "output"), COMMANDS, ids=[c.split()[0] for c, _ in COMMANDS])
def test_each_command_prints_what_the_page_has(call, command, output):
    assert printed(call, command) == output.splitlines()


def test_each_way_to_divide_the_parameters(call):
    rows = re.findall(r"^\| `(--\w+ .+?)` \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for flags, *figures in rows:
        lines = printed(call, COMMANDS[0][0].replace("--mesh 32 8", flags))
        names = ("all", "sent in a step", "of it along data")
        found = [re.split(r"\s{2,}", line.strip())[-1] for line in lines if starts(line, names)]
        assert found == figures


def starts(line, names):
    return re.split(r"\s{2,}", line.strip())[0] in names


def test_a_figure_with_a_star_is_what_dry_run_prints():
    output = COMMANDS[0][1] + "".join(re.findall(r"^\| `--.*$", PAGE, re.MULTILINE))
    starred = [number for _, star, _, number, _ in FORMULAS if star]
    assert len(starred) == 11
    assert [n for n in starred if not re.search(rf"(?<![\d.]){re.escape(n)}(?![\d])", output)] == []


def test_the_page_is_whole():
    assert (len(FORMULAS), len(COMMANDS)) == (34, 3)
