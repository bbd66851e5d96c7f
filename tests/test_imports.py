"""Which package may import which, so that each twin runs without the other's framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "gpt_common": {"torch", "jax", "flax", "optax", "gpt_torch", "gpt_flax", "convert"},
    "gpt_torch": {"jax", "flax", "optax", "gpt_flax"},
    "gpt_flax": {"torch", "gpt_torch"},
}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_file_imports_what_its_package_may_not(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported_packages(path) & FORBIDDEN[package], path


def test_linen_stays_in_the_model():
    for path in (ROOT / "gpt_flax").glob("*.py"):
        uses = "linen" in path.read_text().replace("Linen", "")
        assert uses == (path.name == "model.py"), path


@pytest.mark.parametrize(
    ("framework", "absent"), [("torch", ("jax", "flax", "optax")), ("flax", ("torch",))]
)
def test_each_twin_trains_and_generates_without_the_others_framework(framework, absent, tmp_path):
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
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "saved" in result.stdout


def functions(path: Path) -> list[str]:
    """The names of a file's functions, classes and methods, in order."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            names += [f"{node.name}.{name}" for name in methods]
    return names


# The frameworks' own words for the same thing, and the few functions that only one of them needs.
SAME_NAME = {"__init__": "setup", "forward": "__call__"}
ONLY_TORCH = {
    *("autocast", "to_device", "to_host", "Arriving", "Arriving.__init__", "Arriving.__float__"),
    *("GPT.use", "GPT.compile"),
    *("OneDNNLinear", "OneDNNLinear.forward", "OneDNNLinear.backward"),
    *("onednn_product", "compute_dtype", "row_losses_"),
    *("BlockAttention", "BlockAttention.forward", "BlockAttention.backward", "attention_weights"),
    *("ChunkedLoss", "ChunkedLoss.forward", "ChunkedLoss.backward"),
    *("used", "stack", "LayerCache", "onednn_dtypes", "packs", "without_late_ties"),
    *("FrozenGPT", "FrozenGPT.__init__", "FrozenGPT.decode", "FrozenGPT.head"),
    *("FrozenLinear", "FrozenLinear.__init__", "FrozenLinear.forward"),
}
ONLY_FLAX = {
    *("normal", "padded", "jit_train_step", "eval_step", "keep_compiled"),
    *("product", "_product_forward", "_product_backward", "transposed"),
    *("flat_linear", "_flat_linear_forward", "_flat_linear_backward", "flat"),
    *("gelu", "compact_gelu", "_compact_gelu_backward", "widened"),
    *("has_few_rows", "few_rows_options", "depth_first_options"),
    *("_block_attention_forward", "_block_attention_backward"),
    *("heads_first", "causal_scores", "last_rows_attention"),
    *("first_keys_gradients", "row_losses"),
    *("chunked_loss", "chunked_loss_and_gradients", "_chunked_loss_backward"),
    *("CausalSelfAttention.keep", "updated", "prefill_step", "decode_steps", "gather"),
}


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "gpt_torch").glob("*.py")))
def test_twin_files_have_the_same_functions_in_the_same_order(name):
    ours = functions(ROOT / "gpt_torch" / name)
    theirs = functions(ROOT / "gpt_flax" / name)
    renamed = [
        ".".join(SAME_NAME.get(part, part) for part in full.split("."))
        for full in ours
        if full not in ONLY_TORCH
    ]
    assert renamed == [full for full in theirs if full not in ONLY_FLAX]


def test_the_twins_have_the_same_files():
    ours, theirs = ({p.name for p in (ROOT / t).glob("*.py")} for t in ("gpt_torch", "gpt_flax"))
    assert ours == theirs
