"""The twin pages: what is beside what, and that no page is built of what does not fit together."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from docs._twins.align import Row, align, differences
from docs._twins.breaks import layer_of
from docs._twins.charts import START, loss_curves, position, round_ticks
from docs._twins.columns import Side
from docs._twins.docstrings import with_tables
from docs._twins.figures import (
    Effects,
    Found,
    Parity,
    Planted,
    Run,
    read_effects,
    read_measured,
    read_parity,
)
from docs._twins.notes import Note
from docs._twins.page import TwinPage
from docs._twins.pairs import pairs, split
from docs._twins.runs import flax_shapes, torch_shapes
from docs._twins.shapes import CONFIG, SIZES, symbolic
from docs._twins.words import WORDS, is_used
from gpt_common.errors import InputError
from gpt_flax import model as flax_model
from gpt_torch import model as torch_model
from tests.conftest import kept_jax_config
from tests.figures import write

ROOT = Path(__file__).parent.parent
PARITY, EFFECTS = (ROOT / "docs/figures" / f"{name}.json" for name in ("parity", "faults"))
FILES = sorted(path.stem for path in (ROOT / "gpt_torch").glob("[a-z]*.py"))

TORCH = """class MLP(nn.Module):
    def __init__(self): ...

    def forward(self, x):
        return torch.relu(x @ self.weight.T)


def loss(x):
    return x.mean()
"""
FLAX = """class MLP(nn.Module):
    def setup(self): ...

    def __call__(self, x):
        return jax.nn.relu(x @ self.kernel)


def loss(x):
    return x.mean()
"""
NOTE = Note(
    "mlp.py::MLP.forward", "self.weight.T", "self.kernel", "the kernel", "It is `(in, out)`."
)
FOUND = {"output": {"float64": Found(1e-16, 0.0, 1e-15)}}
INTACT = Run([1e-16], {}, [3.0, 2.0])
FAULT = Planted(
    *("no-relu", "the ReLU is gone", "torch", "gpt_torch/mlp.py", "MLP.forward"),
    *("return torch.relu(x @ self.weight.T)", "return x @ self.weight.T", "It is linear."),
    *("caught", "tests/test_mlp.py::test_mlp[torch]", Run([0.5], {}, [3.0, 4.0])),
)


def html(
    torch: str = TORCH,
    flax: str = FLAX,
    notes: tuple[Note, ...] = (NOTE,),
    fault: Planted = FAULT,
) -> str:
    """The page of a file `mlp.py` with these sources, a strip, a note and a fault."""
    sides = {
        "torch": Side("torch", torch, {5: "(B, C)"}),
        "flax": Side("flax", flax, {5: "(B, C)"}),
    }
    parity = Parity("a machine", "a model", {"mlp.py::MLP": FOUND})
    intact = {"torch": INTACT, "flax": INTACT}
    effects = Effects("a machine", "a model", 20, ["mlp"], intact, [fault])
    return TwinPage("mlp.py", sides, parity, effects, notes).html()


def test_a_page_has_each_line_and_what_is_said_of_it():
    text = html()
    for framework, source in (("torch", TORCH), ("flax", FLAX)):
        numbers = {int(n) for n in re.findall(rf'id="{framework}-(\d+)"', text)}
        assert numbers == {n for n, line in enumerate(source.splitlines(), 1) if line}
    assert '<section id="MLP.forward">' in text
    assert "MLP.forward / __call__" in text
    assert '<span class="shape">(B, C)</span>' in text
    assert "<b>the kernel</b>: It is <code>(in, out)</code>." in text
    assert 'data-function="MLP"' in text
    assert "<td>1.00e-16</td><td>0</td><td>1.00e-15</td>" in text


def test_a_page_says_what_a_fault_does():
    article = html().split("<article")[1]
    assert 'id="break-no-relu"' in article
    assert 'data-section="MLP.forward" data-side="torch" data-line="5"' in article
    assert "<del>return torch.relu(x @ self.weight.T)</del>" in article
    assert "<ins>return x @ self.weight.T</ins>" in article
    assert (
        '<a class="line" href="#torch-5"><code>gpt_torch/mlp.py:5</code></a> It is linear.'
        in article
    )
    assert "<dt>First layer whose output differs</dt><dd><code>mlp</code></dd>" in article
    losses = "<b>4.000</b> with the fault, 2.000 without"
    assert f"<dt>Mean loss of steps 11 to 20</dt><dd>{losses}</dd>" in article
    assert "the mean of each 10 steps" in article
    assert "<span>step 1</span><span>20</span>" in article
    caught = "<code>tests/test_mlp.py::<wbr>test_mlp<wbr>[torch]</code>"
    assert f"<dt>Caught by</dt><dd>{caught}</dd>" in article


@pytest.mark.parametrize(
    ("gradient", "where"), [(0.1, "the fault is in the loss"), (1e-16, "in the training step")]
)
def test_a_fault_that_no_layer_shows(gradient, where):
    run = Run([1e-16], {"transformer.ln_f.bias": gradient}, INTACT.losses)
    article = html(fault=dataclasses.replace(FAULT, run=run)).split("<article")[1]
    assert re.search(f"First layer whose output differs</dt><dd>none[^<]*{where}</dd>", article)
    assert "<dd>the same with the fault as without</dd>" in article


def test_a_loss_that_the_chart_does_not_show_is_said_to_be_higher():
    text = ", at the top where it is higher than the chart"
    assert text not in html(fault=dataclasses.replace(FAULT, run=INTACT))
    assert text in html()  # 4 of at most 3.75


def test_each_added_line_of_a_fault_is_one():
    article = html(fault=dataclasses.replace(FAULT, after="x = -x\nreturn x")).split("<article")[1]
    assert "</del>\n<ins>x = -x</ins>\n<ins>return x</ins></pre>" in article


def test_a_mark_names_its_fault():
    bolt = re.search(r'<a class="bolt torch" href="#break-no-relu"([^>]*)>', html())[1]
    assert bolt == "".join(
        f' {a}="Break it: the ReLU is gone (PyTorch)"' for a in ("title", "aria-label")
    )


def test_notes_are_numbered_downwards():
    """However they are listed, and where one is about two lines that are not side by side."""
    flax = FLAX.replace("        return jax", "        k = self.kernel\n        return jax")
    flax = flax.replace("x @ self.kernel)", "x @ k)")
    last = Note(NOTE.place, "torch.relu", "jax.nn.relu", "the ReLU", "")
    first = Note(NOTE.place, "def forward", "def __call__", "the name", "")
    text = html(flax=flax, notes=(last, NOTE, first))
    numbers = re.findall(r'class="mark" href="#[^"]*" title="([^"]*)">(\d)', text)
    assert list(dict.fromkeys(numbers)) == [
        ("the name", "1"),
        ("the kernel", "2"),
        ("the ReLU", "3"),
    ]


def test_columns_count_the_lines_of_the_file():
    """A browser numbers the lines from `--start`."""
    for start, column in re.findall(r'--start:(\d+)"><code>(.*?)</code>', html(), re.S):
        numbers = [int(number) for number in re.findall(r'id="\w+-(\d+)"', column)]
        assert numbers == list(range(int(start) + 1, int(start) + 1 + len(numbers)))


def test_a_word_of_jax_is_explained_once_where_it_is_first_used():
    text = html(flax=FLAX.replace("x.mean()", "jax.jit(jnp.mean)(x)"))
    assert text.count("<dt><code>jnp</code></dt>") == 1
    assert text.index("<dt><code>jnp</code></dt>") > text.index('<section id="loss">')
    assert "<dt><code>jnp</code></dt>" not in html()  # nor for a word in a string or a comment
    assert "<dt><code>jnp</code></dt>" not in html(flax=FLAX.replace("x.mean()", "x  # jnp"))


def test_each_word_of_jax_is_in_the_code():
    """A word that the twin no longer uses is not explained."""
    codes = [Side("flax", (ROOT / f"gpt_flax/{file}.py").read_text(), {}) for file in FILES]
    text = "\n".join(code for side in codes for code in side.code)
    assert [word.name for word in WORDS if not is_used(word, text)] == []


def test_each_file_of_the_twins_has_a_page():
    for file in FILES:
        assert f"```{{twins}} {file}.py\n" in (ROOT / f"docs/twins/{file}.md").read_text()


def test_a_function_renamed_in_one_twin_only_is_an_error():
    with pytest.raises(ValueError, match=r"in both twins, in the same order: loss, mean_error"):
        html(flax=FLAX.replace("def loss(", "def mean_error("))


def test_two_functions_in_another_order_are_an_error():
    first, second = FLAX.split("\n\n\n")
    with pytest.raises(ValueError, match="in the same order"):
        html(flax=f"{second}\n\n{first}\n")


def test_a_line_that_a_note_is_about_must_be_there():
    with pytest.raises(InputError, match=r"expected 'self\.kernel' once in MLP\.__call__, got 0"):
        html(flax=FLAX.replace("self.kernel", "self.weight"))


def test_a_note_on_no_function_is_an_error():
    with pytest.raises(InputError, match=r"expected functions of mlp\.py, got \['MLP\.relu'\]"):
        html(notes=(NOTE._replace(place="mlp.py::MLP.relu"),))


def test_a_fault_whose_line_is_gone_is_an_error():
    """Also if another function has the same line."""
    gone = TORCH.replace("torch.relu(", "F.relu(")
    for source in (gone, gone.replace("return x.mean()", FAULT.before)):
        with pytest.raises(InputError, match=r"once in MLP\.forward, got 0"):
            html(torch=source)


def test_a_difference_above_its_limit_is_an_error(tmp_path):
    numbers = {"torch": 1e-16, "flax": 2e-16, "limit": 1e-15}
    functions = {"mlp.py::MLP": {"output": {"float64": numbers}}}
    environment = {"hardware": "a CPU", "versions": {"jax": "1"}, "date": "2026-01-01"}
    data = {"environment": environment, "model": "a model", "functions": functions}
    path = tmp_path / "parity.json"
    write(path, data)
    assert read_parity(path).functions == {
        "mlp.py::MLP": {"output": {"float64": Found(*numbers.values())}}
    }
    for flax in (2e-15, "nan"):
        numbers["flax"] = flax
        write(path, data)
        with pytest.raises(InputError, match=r"mlp\.py::MLP, output in float64: expected at most"):
            read_parity(path)


@pytest.mark.parametrize("path", [PARITY, EFFECTS], ids=lambda path: path.name)
def test_a_number_that_was_not_measured_is_an_error(path, tmp_path):
    text = path.read_text()
    number = re.search(r"\d\.\de-\d\d", text)[0]
    (tmp_path / path.name).write_text(text.replace(number, "1.0e-17", 1))
    with pytest.raises(InputError, match=rf"{path.name}: expected what was measured"):
        read_measured(tmp_path / path.name)
    assert read_measured(path)


def test_the_parts_of_a_file():
    text = (
        '"""Doc."""\nA = 1\n\n# About f.\n@cache\ndef f():\n    pass\n\n\nclass C:\n    x: int\n\n'
    )
    parts = split(text + "    def __call__(self):\n        pass\n\n\nB = f()\n")
    assert [(part.name, part.start, part.lines[0]) for part in parts] == [
        ("start:before", 1, '"""Doc."""'),
        ("f", 4, "# About f."),
        ("C", 10, "class C:"),
        ("C.__call__", 13, "    def __call__(self):"),
        ("end:before", 17, "B = f()"),
    ]


def test_the_imports_are_side_by_side_whatever_follows_them():
    """Also where one twin's first definition has no partner."""
    torch, flax = "import torch\n\ndef f(): ...\n", "import jax\n\ndef eval_step(): ...\n\n"
    first = pairs(torch, f"{flax}def f(): ...\n")[0]
    assert (first.torch.lines, first.flax.lines) == (("import torch",), ("import jax",))


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
    assert ends == [0, START, 100, 100, 100, 100]
    assert position(1e-8) - position(1e-9) == pytest.approx((100 - START) / 17, abs=0.11)


def test_a_loss_curve_ends_where_the_loss_is_nan():
    chart = loss_curves([4.0, 3.0, 2.0], [4.0, float("inf"), float("nan")], 30, "text")
    intact, faulty = re.findall(r'points="([^"]*)"', chart)
    assert len(intact.split()) == 3
    assert len(faulty.split()) == 2
    assert [point.split(",")[0] for point in intact.split()] == ["16.67", "50", "83.33"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.382, 4.311, [1, 2, 3, 4]),
        (0.1384, 4.311, [0, 1, 2, 3, 4]),
        (2.53, 4.3, [2.5, 3, 3.5, 4]),
        (2.57, 94.84, [0, 20, 40, 60, 80]),
    ],
)
def test_the_axis_of_losses_has_round_numbers(low, high, ticks):
    assert round_ticks(low, high) == ticks


def test_each_parameter_belongs_to_a_layer_that_was_measured():
    effects = read_effects(EFFECTS)
    for run in (*effects.intact.values(), *(fault.run for fault in effects.faults)):
        assert {layer_of(name) for name in run.gradients} == set(effects.layers) - {"logits"}


@pytest.fixture(scope="module", params=["torch", "flax"])
def shapes(request):
    """The shapes of a twin's lines: by the path of the file, then the number of the line."""
    with kept_jax_config():
        found = {"torch": torch_shapes, "flax": flax_shapes}[request.param]()
    return {ROOT / f"gpt_{request.param}" / name: lines for name, lines in found.items()}


def test_shapes_in_comments_are_those_of_a_run(shapes):
    stated = {
        (file, number): match[1]
        for file, lines in shapes.items()
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if number in lines and (match := re.search(r"# (\((?:[\w ]+, )+[\w ]+\))", line))
    }
    assert stated == {(file, number): shapes[file][number] for file, number in stated}
    assert {file.name for file, _ in stated} == {"model.py", "evaluate.py", "fast.py"}
    assert len(set(SIZES.values())) == len(SIZES)


def test_a_shape_is_written_as_a_tuple():
    B, T, V = SIZES["B"], SIZES["T"], SIZES["padded V"]
    assert [symbolic(shape) for shape in ((), (T,), (B, V))] == ["()", "(T,)", "(B, padded V)"]
    assert Side("torch", "", {1: "(B, padded V)", 2: "()"}).dimensions == {"B", "padded V", "()"}


def test_each_dimension_has_a_name(shapes):
    """A number other than the code's own literals is a size that nobody has named."""
    found = " ".join(shape for lines in shapes.values() for shape in lines.values())
    assert set(re.findall(r"(?<=[(\s])\d+(?=[,)])", found)) == {"1", "2", "3"}


def test_a_line_whose_shape_varies_has_none(shapes):
    """`boundary_margin` is called on two shapes, `sample` on one."""
    file = next(file for file in shapes if file.name == "sampling.py")
    lines = file.read_text().splitlines()
    found = {lines[number - 1].strip(): shape for number, shape in shapes[file].items()}
    assert found["last = cutoff_index(ordered, options)"] == "(R, 1)"
    assert not [line for line in found if line.startswith("odds =")]


def test_the_code_at_the_top_of_the_page_of_the_model_is_true():
    """It runs, and the weights in its last lines have the shapes that are stated there."""
    page = (ROOT / "docs/twins/model.md").read_text()
    blocks = re.search(r"```python\n(.*?)```", page, re.S)[1].split("\n\n")
    tokens = np.zeros((SIZES["B"], SIZES["T"]), np.int32)

    def run(block, model, tokens):
        names = {"jax": jax, "model": model, "tokens": tokens, "targets": tokens}
        exec(block, names)
        weight, stated = block.strip().splitlines()[-1].split("  # ")
        assert symbolic(eval(weight, names).shape) == stated.partition(", which")[0]

    run(blocks[0], torch_model.GPT(CONFIG), torch.from_numpy(tokens).long())
    jax.eval_shape(lambda tokens: run(blocks[1], flax_model.GPT(CONFIG), tokens), tokens)


def test_a_docstring_as_restructuredtext():
    assert with_tables(["a `b*` *c* d_ |e|", "| x |", "end"]) == [
        r"a ``b*`` \*c\* d\_ \|e\|",
        *("::", "", "    | x |", ""),
        "end",
    ]
