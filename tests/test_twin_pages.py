"""The twin pages: what is beside what, and that no page is built of what does not fit together."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from docs._twins.align import Row, align, differences
from docs._twins.breaks import layer_of
from docs._twins.charts import loss_curves, position
from docs._twins.columns import Side
from docs._twins.docstrings import with_tables
from docs._twins.figures import read_effects, read_parity
from docs._twins.notes import NOTES
from docs._twins.page import TwinPage
from docs._twins.pairs import pairs, split
from docs._twins.shapes import SIZES, flax_shapes, torch_shapes
from gpt_common.errors import InputError
from tests.conftest import kept_jax_config

ROOT = Path(__file__).parent.parent
PARITY = ROOT / "docs/figures/parity.json"
EFFECTS = ROOT / "docs/figures/faults.json"
FILES = sorted(path.name for path in (ROOT / "gpt_torch").glob("[a-z]*.py"))


def source(framework: str, file: str = "model.py") -> str:
    return (ROOT / f"gpt_{framework}" / file).read_text()


def page(file: str = "model.py", torch: str = "", flax: str = "", **changes) -> TwinPage:
    """A page of the real sources, or of others."""
    sides = {
        "torch": Side("torch", torch or source("torch", file), {}),
        "flax": Side("flax", flax or source("flax", file), {}),
    }
    return replace(TwinPage(file, sides, read_parity(PARITY), read_effects(EFFECTS)), **changes)


@pytest.mark.parametrize("file", FILES)
def test_each_file_has_a_page_with_all_of_its_lines(file):
    html = page(file).html()
    for framework in ("torch", "flax"):
        lines = source(framework, file).splitlines()
        numbers = {int(n) for n in re.findall(rf'id="{framework}-(\d+)"', html)}
        assert {n for n, line in enumerate(lines, 1) if line.strip()} <= numbers
    assert f"```{{twins}} {file}\n" in (ROOT / f"docs/twins/{file[:-3]}.md").read_text()


def test_a_function_renamed_in_one_twin_only_is_an_error():
    renamed = source("flax").replace("def head(", "def logits(")
    with pytest.raises(
        ValueError, match=r"in both twins, in the same order: GPT\.head, GPT\.logits"
    ):
        page(flax=renamed).html()


def test_two_functions_in_another_order_are_an_error():
    swapped = (
        source("torch").replace("def linear(", "def tmp(").replace("def layer_norm(", "def linear(")
    )
    with pytest.raises(ValueError, match="in the same order"):
        page(torch=swapped.replace("def tmp(", "def layer_norm(")).html()


def test_a_line_that_a_note_is_about_must_be_there():
    gone = source("flax").replace("jnp.unstack(qkv, axis=2)", "jnp.moveaxis(qkv, 2, 0)")
    with pytest.raises(InputError, match=r"expected 'jnp\.unstack\(qkv' once"):
        page(flax=gone).html()


def test_a_note_on_no_function_is_an_error():
    note = NOTES[0]._replace(place="model.py::attend")
    with pytest.raises(InputError, match=r"expected functions of model\.py, got \['attend'\]"):
        page(all_notes=(note,)).html()


def test_a_fault_whose_line_is_gone_is_an_error():
    gone = source("torch").replace("y.transpose(1, 2).reshape", "y.mT.reshape")
    with pytest.raises(InputError, match=r"once in CausalSelfAttention\.forward, got 0"):
        page(torch=gone, all_notes=()).html()


def test_a_difference_above_its_limit_is_an_error(tmp_path):
    data = json.loads(PARITY.read_text())
    numbers = data["functions"]["model.py::MLP"]["output"]["float64"]
    for flax in (2 * numbers["limit"], "nan"):
        numbers["flax"] = flax
        (tmp_path / "parity.json").write_text(json.dumps(data))
        with pytest.raises(
            InputError, match=r"model\.py::MLP, output in float64: expected at most"
        ):
            read_parity(tmp_path / "parity.json")


def test_the_parts_of_a_file():
    text = (
        '"""Doc."""\nA = 1\n\n# About f.\n@cache\ndef f():\n    pass\n\n\nclass C:\n    x: int\n\n'
    )
    parts = split(text + "    def __call__(self):\n        pass\n\n\nB = f()\n")
    assert [(part.name, part.start, part.lines[0]) for part in parts] == [
        ("f:before", 1, '"""Doc."""'),
        ("f", 4, "# About f."),
        ("C", 10, "class C:"),
        ("C.__call__", 13, "    def __call__(self):"),
        ("end:before", 17, "B = f()"),
    ]


def test_the_same_method_under_the_frameworks_names_is_a_pair():
    torch = "class C:\n    def __init__(self): ...\n    def forward(self): ...\n"
    flax = "class C:\n    def setup(self): ...\n    def __call__(self): ...\n"
    found = [(pair.torch.name, pair.flax.name) for pair in pairs(torch, flax)]
    assert found == [("C", "C"), ("C.__init__", "C.setup"), ("C.forward", "C.__call__")]


def test_similar_lines_are_side_by_side():
    ours = ["def f(x: Tensor):", "    y = torch.exp(x)", "    return y"]
    theirs = ["def f(x: Array):", "    import math", "    y = jnp.exp(x)", "    return y"]
    assert align(ours, theirs) == [Row(0, 0), Row(None, 1), Row(1, 2), Row(2, 3)]
    assert align([], ["a"]) == [Row(None, 0)]


def test_the_words_that_differ():
    a, b = "    y = qkv.view(B, T)  # heads", "    y = qkv.reshape(B, T)  # heads"
    marks = differences(a, b)
    assert [
        [line[m.start : m.end] for m in found] for line, found in zip((a, b), marks, strict=True)
    ] == [
        ["view"],
        ["reshape"],
    ]
    assert differences("x: Tensor", "x: Array") == ([], [])  # only the frameworks' names


def test_the_axis_is_logarithmic_and_has_ends():
    ends = [position(d) for d in (0.0, 1e-17, 1.0, 50.0, float("inf"), float("nan"))]
    assert ends == [0, 0, 100, 100, 100, 100]
    assert position(1e-8) - position(1e-9) == pytest.approx(100 / 17, abs=0.11)


def test_a_loss_curve_ends_where_the_loss_is_nan():
    chart = loss_curves([4.0, 3.0, 2.0], [4.0, float("inf"), float("nan")], "text")
    intact, faulty = re.findall(r'points="([^"]*)"', chart)
    assert len(intact.split()) == 3
    assert len(faulty.split()) == 2


def test_each_parameter_belongs_to_a_layer_that_was_measured():
    effects = read_effects(EFFECTS)
    for run in (*effects.intact.values(), *(fault.run for fault in effects.faults)):
        assert {layer_of(name) for name in run.gradients} == set(effects.layers) - {"logits"}


@pytest.mark.parametrize(("framework", "shapes"), [("torch", torch_shapes), ("flax", flax_shapes)])
def test_shapes_in_comments_are_those_of_a_pass(framework, shapes):
    file = ROOT / f"gpt_{framework}/model.py"
    with kept_jax_config():
        found = shapes(file)
    stated = {
        number: re.search(r"# (\((?:\w+, )+\w+\))", line)
        for number, line in enumerate(file.read_text().splitlines(), 1)
    }
    stated = {number: match[1] for number, match in stated.items() if match and number in found}
    assert len(stated) >= 4
    assert {number: found[number] for number in stated} == stated
    assert len(set(SIZES.values())) == len(SIZES)


def test_a_docstring_as_restructuredtext():
    assert with_tables(["a `b*` *c* d_ |e|", "| x |", "end"]) == [
        r"a ``b*`` \*c\* d\_ \|e\|",
        *("::", "", "    | x |", ""),
        "end",
    ]
