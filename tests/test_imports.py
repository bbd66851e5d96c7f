"""Which file may import which: only downwards, in no cycle, and never the other's framework."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import pytest

from docs._twins.pairs import ONLY_FLAX, ONLY_TORCH, common_name, names
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
# From top to bottom; packages on one floor do not import each other.
FLOORS = (("tests",), ("benchmarks",), ("convert",), ("gpt_torch", "gpt_flax"), ("gpt_common",))
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
FORBIDDEN = {
    "gpt_common": {"torch", "jax", "flax", "optax"},
    "gpt_torch": {"jax", "flax", "optax"},
    "gpt_flax": {"torch"},
}
# A framework's own files are read by that framework, imported in the function that reads them.
IMPORTED_IN_FUNCTIONS = {
    "gpt_common.formats.torch_files": {"torch"},
    "gpt_common.formats.nanogpt": {"torch"},
    "gpt_common.formats.msgpack_files": {"flax"},
    "gpt_common.formats.orbax": {"jax", "flax"},
}


def name_of(path: Path) -> str:
    """The name under which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for package in FLOOR for path in (ROOT / package).rglob("*.py")}


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """What is imported in some part of a file: each module, and the packages that it is in."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not followed here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {part for name in names for part in accumulate(name.split("."), "{}.{}".format)}


def all_nodes(path: Path) -> list[ast.AST]:
    """A file's nodes, without what only a type checker reads."""
    tree = ast.parse(path.read_text())
    checked = [
        n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]
    return list({*ast.walk(tree)} - {node for block in checked for node in ast.walk(block)})


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_framework_is_imported_only_where_it_may_be(package):
    files = {name: path for name, path in MODULES.items() if name.split(".")[0] == package}
    assert files
    for name, path in files.items():
        nodes = all_nodes(path)
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        inside = {node for function in functions for node in ast.walk(function)}
        allowed = IMPORTED_IN_FUNCTIONS.get(name, set())
        assert imports(inside) & FORBIDDEN[package] == allowed, name
        assert not imports(set(nodes) - inside) & FORBIDDEN[package], name


def test_imports_point_down():
    for name, path in MODULES.items():
        package = name.split(".")[0]
        for other in (imports(all_nodes(path)) & FLOOR.keys()) - {package}:
            assert FLOOR[other] > FLOOR[package], f"{name} imports {other}"


def test_no_files_import_each_other():
    """Not by way of others either, nor of the `__init__.py` that Python runs before a file."""
    graph = {}
    for name, path in MODULES.items():
        found = imports(all_nodes(path)) | {name.rpartition(".")[0]}
        graph[name] = (found & MODULES.keys()) - {name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, with the cycle


def test_linen_stays_in_the_model_and_what_replaces_its_methods():
    for path in (ROOT / "gpt_flax").glob("*.py"):
        uses = "linen" in path.read_text().replace("Linen", "")
        assert uses == (path.stem in ("model", "fast", "inference", "precision")), path


@pytest.mark.parametrize(
    ("framework", "absent"), [("torch", ("jax", "flax", "optax")), ("flax", ("torch",))]
)
def test_each_twin_trains_and_generates_alone(framework, absent, tmp_path):
    """Without the other's framework, in a folder where `convert` is a program of the user's."""
    (tmp_path / "convert.py").write_text("raise SystemExit('not gpt-twins')")
    script = f"""
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.argv = ["train", *{[str(a) for a in TINY]}, "--steps", "1", "--out_dir", r"{tmp_path / "run"}"]
runpy.run_module("gpt_{framework}.train", run_name="__main__")
sys.argv = ["generate", "--init", r"{tmp_path / "run"}", "--prompt", "", "--max_length", "8"]
runpy.run_module("gpt_{framework}.generate", run_name="__main__")
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "saved" in result.stdout


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "gpt_torch").glob("*.py")))
def test_twin_files_have_the_same_functions_in_the_same_order(name):
    ours, theirs = ((ROOT / twin / name).read_text() for twin in ("gpt_torch", "gpt_flax"))
    assert renamed(ours, ONLY_TORCH) == renamed(theirs, ONLY_FLAX)


def renamed(source: str, only_here: set[str]) -> list[str]:
    """The names that the other twin has too, under one name in both."""
    return [common_name(name) for name in names(source) if name not in only_here]


def test_the_twins_have_the_same_files():
    ours, theirs = ({p.name for p in (ROOT / t).glob("*.py")} for t in ("gpt_torch", "gpt_flax"))
    assert ours == theirs
