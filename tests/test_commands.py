"""What `python -m` finds: each command under its own name, and packages that name theirs."""

import re
from pathlib import Path

import pytest

from tests.conftest import assert_one_line_error

ROOT = Path(__file__).parent.parent
COMMANDS = [
    f"{package}.{path.stem}"
    for package in ("gpt_common", "gpt_torch", "gpt_flax", "convert", "benchmarks")
    for path in sorted((ROOT / package).glob("*.py"))
    if re.search(r"def main\(.*(cli\.parse|parse_train_config)\(", path.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("package", ["gpt_torch", "gpt_flax", "benchmarks"])
def test_a_package_alone_names_its_commands(package, call):
    names = [command.partition(".")[2] for command in COMMANDS if command.startswith(package)]
    assert len(names) >= 2
    assert_one_line_error(call(f"{package}.__main__"), f"expected python -m {package}.", *names)


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_is_the_command_that_was_typed(command, call):
    result = call(command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: python -m {command.removesuffix('.__main__')} ")
