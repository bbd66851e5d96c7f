"""The notebooks run from top to bottom, and each is the same as its text."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
SMALL = {"PRESET": "tiny", "SOURCE": "tiny"}  # a model of seconds, without a download


def run(name: str, tmp_path: Path) -> str:
    """Run the cells of a notebook in order, on a CPU; return what they print."""
    environment = (
        os.environ | SMALL | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(NOTEBOOKS.parent)}
    )
    command = [sys.executable, NOTEBOOKS / f"{name}.py"]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_twins_print_the_same_losses_and_texts(tmp_path):
    torch, flax = (run(f"lecture_{name}", tmp_path).splitlines() for name in ("torch", "flax"))
    for start in ("step ", "loss ", "[10.", ">"):
        shown = [line for line in torch if line.startswith(start)]
        assert shown, start
        assert shown == [line for line in flax if line.startswith(start)]


def test_one_model_in_two_frameworks(tmp_path):
    assert "largest relative difference" in run("one_model_two_frameworks", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_text(name):
    notebook = jupytext.read(NOTEBOOKS / f"{name}.ipynb")
    assert not any(cell.get("outputs") for cell in notebook.cells)
    text = (NOTEBOOKS / f"{name}.py").read_text()
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in jupytext.reads(text, "py:percent").cells
    ], f"jupytext --update --to ipynb notebooks/{name}.py"
