"""What makes `make docs` fail: a copy of the project with two pages, intact and damaged."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("gpt_torch", "gpt_flax", "gpt_common", "docs/_twins", "docs/_static", "docs/figures")
FILES = ("docs/conf.py", "docs/twins/model.md", "docs/twins/weights.md", "tests/__init__.py")
PARITY = "docs/figures/parity.json"
FAULTS = ("tests/faults/__init__.py", "tests/faults/fault.py")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.png", "assets")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in (*FILES, *FAULTS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs/index.md").write_text(
        "# Index\n\n```{toctree}\ntwins/model\ntwins/weights\n```\n"
    )
    (tmp_path / "docs/porting.md").write_text("---\norphan: true\n---\n\n# Porting\n")
    return tmp_path


def build(project: Path) -> subprocess.CompletedProcess[str]:
    options = ["--nitpicky", "--fail-on-warning", "--keep-going", "--quiet"]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "--builder", "html", *options, "docs", "build"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
    )


def change(file: str, old: str, new: str) -> Callable[[Path], object]:
    def apply(project: Path) -> None:
        text = (project / file).read_text()
        assert old in text
        (project / file).write_text(text.replace(old, new))

    return apply


def test_the_page_is_built(project):
    done = build(project)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert 'id="CausalSelfAttention.forward"' in (project / "build/twins/model.html").read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("gpt_flax/model.py", " layer_norm(", " norm("), "order: layer_norm, norm"),
        (change("gpt_torch/model.py", "is_causal=True", "is_causal=bool(1)"), "is_causal=True"),
        (change(PARITY, '"limit": 9e-15', '"limit": 8e-15'), "parity.json: expected what was"),
        (change("docs/twins/model.md", "(../porting.md)", "(../moved.md)"), "moved.md"),
    ],
    ids=[
        "renamed in one twin",
        "a line with a fault is gone",
        "a number",
        "a broken link",
    ],
)
def test_what_does_not_fit_fails_the_build(project, damage, message):
    damage(project)
    done = build(project)
    assert done.returncode != 0
    assert message in done.stderr
