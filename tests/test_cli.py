"""What `python -m` finds: each command under its own name, and packages that name theirs."""

from pathlib import Path

import pytest

from tests.conftest import assert_one_line_error

ROOT = Path(__file__).parent.parent
PACKAGES = ("gpt_torch", "gpt_flax", "benchmarks")  # which are no commands themselves
COMMANDS = [
    f"{path.parent.name}.{path.stem}"
    for package in (*PACKAGES, "convert")
    for path in sorted((ROOT / package).glob("*.py"))
    if "cli.run(" in path.read_text()
]
ALONE = [f"{package}.__main__" for package in PACKAGES]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_alone_names_its_commands(package, call):
    found = [command.partition(".")[2] for command in COMMANDS if command.startswith(package)]
    names = [name for name in found if name != "__main__"]
    assert len(names) >= 2
    assert_one_line_error(call(f"{package}.__main__"), f"expected python -m {package}.", *names)


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {*ALONE}))
def test_usage_is_the_command_that_was_typed(command, call):
    result = call(command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: python -m {command.removesuffix('.__main__')} ")
