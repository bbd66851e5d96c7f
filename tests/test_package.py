"""What is installed: pyproject.toml, constraints.txt and docs/install.md say the same."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FRAMEWORKS = {"torch", "jax", "flax", "optax"}


def requirements(*extras):
    found = [*PROJECT["dependencies"]]
    for extra in extras:
        found += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in found if not line.startswith("gpt-twins")]


def test_make_installs_a_version_of_each_requirement_that_it_allows():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    wanted = requirements("dev", "data", "tensorboard", "docs", "docs-test")
    assert {r.name for r in wanted} <= pins.keys()
    for requirement in wanted:
        assert pins[requirement.name] in requirement.specifier, requirement


def test_no_requirement_has_an_upper_bound():
    operators = {s.operator for r in requirements("dev", "data") for s in r.specifier}
    assert operators == {">="}


def test_one_framework_alone_is_installed_with_all_that_the_twins_share():
    page = (ROOT / "docs" / "install.md").read_text()
    shared, *frameworks = re.findall(r"^pip install (\w[^-.#\n]*?) *(?:#.*)?$", page, re.MULTILINE)
    assert set(shared.split()) == {r.name for r in requirements()} - FRAMEWORKS
    assert set(" ".join(frameworks).split()) == FRAMEWORKS
