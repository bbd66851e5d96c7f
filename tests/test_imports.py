"""Which file may import which: only downwards, in no cycle, and never the other's framework."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import pytest

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
SAME_NAME = {"setup": "__init__", "__call__": "forward"}
ONLY_TORCH = {
    *("Loss", "Loss.__init__", "Loss.forward", "shard_model", "sum_gradients", "set_gradient_sync"),
    *("whole", "mean", "reshard", "is_sharded", "iter_hf"),
    *("compute_dtype", "to_device", "async_to_host"),
    *("AsyncScalar", "AsyncScalar.__init__", "AsyncScalar.__float__"),
    *("FastGPT.__init__", "onednn_linear", "onednn_matmul", "row_losses_"),
    *("OneDNNLinear", "OneDNNLinear.forward", "OneDNNLinear.backward"),
    *("BlockwiseAttention", "BlockwiseAttention.forward", "BlockwiseAttention.backward"),
    *("ChunkedCrossEntropy", "ChunkedCrossEntropy.forward", "ChunkedCrossEntropy.backward"),
    *("upcast_matmul", "scale_loss", "current_scale"),
    *("attention_weights", "active_cache", "stack", "master_weights"),
    *("drop_surplus_ties", "upload"),
    *("sampling_device", "has_static_cache", "cache_length"),
    *("InferenceLinear", "InferenceLinear.__init__", "InferenceLinear.forward"),
    *("can_pack", "onednn_dtypes"),
}
ONLY_FLAX = {
    *("own_devices", "sharding_of", "shard_state", "join_rows", "divide_rows", "mean_loss"),
    "_cpu_footprint",
    *("create_opt_state", "divided_step"),
    *("eval_step", "enable_compilation_cache", "in_half"),
    *("call_fast", "fast_attention", "train_step_options"),
    *("is_small_batch", "small_batch_options", "choose_decode"),
    *("matmul", "_matmul_backward", "transpose_contiguous"),
    *("dense_2d", "_dense_2d_backward", "flatten_batch"),
    *("remat_gelu", "_remat_gelu_backward", "upcast", "cudnn_attention"),
    *("_blockwise_attention_forward", "_blockwise_attention_backward"),
    *("swap_time_and_heads", "causal_scores", "row_losses"),
    *("attention_block_forward", "attention_block_backward"),
    *("_chunked_cross_entropy_forward", "has_cudnn_attention"),
    *("prefill_step", "decode_steps", "gather"),
    *("Scaler", "value_and_scaled_grad", "unscale", "unless_skipped", "update_scaler"),
}


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "gpt_torch").glob("*.py")))
def test_twin_files_have_the_same_functions_in_the_same_order(name):
    ours = renamed(functions(ROOT / "gpt_torch" / name), ONLY_TORCH)
    theirs = renamed(functions(ROOT / "gpt_flax" / name), ONLY_FLAX)
    assert ours == theirs


def renamed(names: list[str], only_here: set[str]) -> list[str]:
    """The names that the other twin has too, under one name in both."""
    return [
        ".".join(SAME_NAME.get(part, part) for part in name.split("."))
        for name in names
        if name not in only_here
    ]


def test_the_twins_have_the_same_files():
    ours, theirs = ({p.name for p in (ROOT / t).glob("*.py")} for t in ("gpt_torch", "gpt_flax"))
    assert ours == theirs
