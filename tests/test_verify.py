"""The layer-by-layer comparison: equal models agree, and every planted fault is told apart."""

import ast
import dataclasses
import importlib
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import gpt_flax.model
from convert.verify import (
    TOLERANCES,
    Trace,
    VerifyConfig,
    choose_tokens,
    compare,
    difference,
    huggingface_model,
    kl_divergence,
    log_softmax,
    trace_flax,
    trace_huggingface,
    trace_torch,
)
from gpt_common.checkpoint import Checkpoint, write_checkpoint
from gpt_common.config import GPTConfig
from gpt_common.data import load_tokens
from tests.conftest import assert_one_line_error, random_weights

LAYERS = [
    "embedding",
    *(f"h.{n}.{part}" for n in range(3) for part in ("attn", "mlp")),
    "ln_f",
    "logits",
]


@pytest.fixture
def verify(call):
    """Verify in this process, and return the exit code and the JSON object."""

    def verify(*args):
        result = call("convert.verify", *args, "--json")
        assert result.stderr == ""
        return result.returncode, json.loads(result.stdout, parse_constant=pytest.fail)

    return verify


def column_thirds_permuted(weights, prefix):
    for kind in ("weight", "bias"):
        q, k, v = np.split(weights[f"{prefix}.attn.c_attn.{kind}"], 3, axis=-1)
        weights[f"{prefix}.attn.c_attn.{kind}"] = np.concatenate([k, q, v], axis=-1)


def norms_swapped(weights, prefix):
    for kind in ("weight", "bias"):
        one, two = f"{prefix}.ln_1.{kind}", f"{prefix}.ln_2.{kind}"
        weights[one], weights[two] = weights[two], weights[one]


def transposed(weights, prefix):
    weights[f"{prefix}.attn.c_proj.weight"] = weights[f"{prefix}.attn.c_proj.weight"].T


def columns_reversed(weights, prefix):
    weights[f"{prefix}.mlp.c_proj.weight"] = weights[f"{prefix}.mlp.c_proj.weight"][:, ::-1]


def one_number_changed(weights, prefix):
    weights[f"{prefix}.bias"][3] += 0.5


def rows_off_by_one(weights, prefix):
    weights[f"{prefix}.weight"] = np.roll(weights[f"{prefix}.weight"], 1, axis=0)


FAULTS = [
    (transposed, "transformer.h.1", "h.1.attn"),
    (column_thirds_permuted, "transformer.h.2", "h.2.attn"),
    (norms_swapped, "transformer.h.1", "h.1.attn"),
    (columns_reversed, "transformer.h.0", "h.0.mlp"),
    (one_number_changed, "transformer.ln_f", "ln_f"),
    (rows_off_by_one, "transformer.wte", "embedding"),
    (rows_off_by_one, "transformer.wpe", "embedding"),
]


def write_changed(config, folder, change=lambda weights: None):
    weights = random_weights(config)
    change(weights)
    weights = {name: np.ascontiguousarray(weight) for name, weight in weights.items()}
    write_checkpoint(folder, Checkpoint(config, weights))
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_twins_agree_with_each_other_and_with_hugging_face(verify, checkpoint_folder, dtype):
    args = (checkpoint_folder, "--dtype", dtype, "--against", "huggingface")
    code, report = verify(*args)
    assert code == 0
    assert report["agree"]
    ours, theirs = report["comparisons"]
    assert [c["other"] for c in (ours, theirs)] == ["flax", "huggingface"]
    for comparison in (ours, theirs):
        assert comparison["agree"]
        assert comparison["first_difference"] is None
        assert [d["name"] for d in comparison["layers"]] == LAYERS
        assert comparison["layers"][-1]["relative"] <= TOLERANCES[dtype].logits
        assert comparison["kl_divergence"] < 1e-3
    assert ours["layers"][-1]["relative"] > 0  # two programs, not one compared with itself


def test_the_twins_agree_in_float64(verify, checkpoint_folder):
    code, report = verify(checkpoint_folder, "--dtype", "float64")
    assert code == 0, report


@pytest.mark.parametrize("trace", [trace_torch, trace_flax, trace_huggingface])
def test_every_model_computes_in_bfloat16(trace, odd_config):
    checkpoint = Checkpoint(odd_config, random_weights(odd_config))
    batch, _ = choose_tokens(VerifyConfig("c"), odd_config)
    fine, coarse = (trace("x", checkpoint, batch, d).layers for d in ("float32", "bfloat16"))
    assert 1e-3 < difference("", fine["logits"], coarse["logits"], 0).relative < 1e-1


@pytest.mark.parametrize("trace", [trace_torch, trace_flax, trace_huggingface])
def test_every_loss_is_that_of_the_logits_in_full(trace, odd_config):
    """Also where the model computes in bfloat16, in whose three digits a fault could hide."""
    checkpoint = Checkpoint(odd_config, random_weights(odd_config))
    batch, _ = choose_tokens(VerifyConfig("c"), odd_config)
    found = trace("x", checkpoint, batch, "bfloat16")
    targets = np.asarray(batch[1])[..., None]
    expected = -np.take_along_axis(log_softmax(found.layers["logits"]), targets, -1).mean()
    assert found.loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_loss_is_held_to_less_than_the_logits_are(dtype):
    """By a loss that differs by what is allowed of one and not of the other."""
    tolerance = TOLERANCES[dtype]
    between = (tolerance.loss + min(tolerance.logits, tolerance.layers)) / 2
    logits = {"logits": np.ones((1, 1, 3))}
    reference, other = (Trace("x", logits, loss) for loss in (1.0, 1.0 + between))
    comparison = compare(reference, other, tolerance)
    assert comparison.first_difference is comparison.loss
    assert compare(reference, Trace("x", logits, 1.0 + tolerance.loss / 2), tolerance).agrees


def test_torch_agrees_with_hugging_face_in_float64(verify, checkpoint_folder):
    """The checkpoint is compared with itself, too."""
    args = ("--dtype", "float64", "--against", "huggingface")
    code, report = verify(checkpoint_folder, checkpoint_folder, *args)
    assert code == 0
    itself, theirs = report["comparisons"]
    assert all(d["max_abs"] == 0 for d in itself["layers"])
    assert theirs["layers"][-1]["relative"] < 1e-14


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("fault", "prefix", "first"), FAULTS)
def test_a_fault_in_the_weights_is_found_in_its_layer(
    verify, odd_config, checkpoint_folder, tmp_path, fault, prefix, first, dtype
):
    other = write_changed(odd_config, tmp_path / "other", lambda w: fault(w, prefix))
    code, report = verify(checkpoint_folder, other, "--dtype", dtype)
    assert code == 1
    assert not report["agree"]
    (comparison,) = report["comparisons"]
    assert comparison["first_difference"] == first
    differences = {d["name"]: d["relative"] for d in comparison["layers"]}
    before = LAYERS.index(first)
    assert [differences[name] for name in LAYERS[:before]] == [0] * before
    assert differences[first] > TOLERANCES[dtype].layers


def test_the_table_marks_the_first_layer_that_differs(
    call, odd_config, checkpoint_folder, tmp_path
):
    other = write_changed(odd_config, tmp_path / "o", lambda w: transposed(w, "transformer.h.1"))
    result = call("convert.verify", checkpoint_folder, other)
    assert result.returncode == 1
    assert result.stderr == ""
    rows = [line.split() for line in result.stdout.splitlines()]
    marked = [row[0] for row in rows if row[-1:] == ["differs"]]
    assert marked == [*LAYERS[LAYERS.index("h.1.attn") :], "loss"]
    assert result.stdout.splitlines()[-1].startswith("DIFFER, first in h.1.attn: relative ")


def test_the_table_of_models_that_agree(call, checkpoint_folder):
    result = call("convert.verify", checkpoint_folder)
    lines = result.stdout.splitlines()
    assert result.returncode == 0
    assert lines[0] == f"{checkpoint_folder}: 3 layers, 100,040 parameters, float32"
    assert lines[1] == "2 x 23 random tokens, as shakespeare has some that the model does not"
    assert [line.split()[0] for line in lines[6:16]] == [*LAYERS, "loss"]
    assert lines[-1] == "AGREE in every layer and the loss"
    assert max(len(line) for line in lines[1:]) <= 80


def faulty_epsilon(patch):
    patch.setattr("gpt_flax.model.LAYER_NORM_EPSILON", 1e-6)


def faulty_loss(patch):
    original = gpt_flax.model.softmax_cross_entropy_with_integer_labels
    faulty = lambda logits, targets: original(logits, targets) * (1 + 1e-5)  # noqa: E731
    patch.setattr("gpt_flax.model.softmax_cross_entropy_with_integer_labels", faulty)


def faulty_weights(twin, fault, prefix):
    def patch_weights(patch):
        name = "iter_hf" if twin == "torch" else "from_hf"
        original = getattr(importlib.import_module(f"gpt_{twin}.weights"), name)

        def faulty(weights, *args):
            weights = dict(weights)
            fault(weights, prefix)
            return original(weights, *args)

        patch.setattr(importlib.import_module(f"gpt_{twin}.generate"), name, faulty)

    return patch_weights


@pytest.fixture
def compiled_anew():
    """Let jax forget what it compiled: before, to see a fault, and after, to be rid of it."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize(
    ("plant", "first"),
    [
        (faulty_epsilon, "h.0.attn"),
        (faulty_weights("flax", transposed, "transformer.h.1"), "h.1.attn"),
        (faulty_weights("flax", rows_off_by_one, "transformer.wpe"), "embedding"),
        (faulty_loss, "loss"),
    ],
)
def test_a_fault_in_one_twin_is_found(verify, checkpoint_folder, monkeypatch, plant, first):
    plant(monkeypatch)
    code, report = verify(checkpoint_folder)
    assert code == 1
    assert report["comparisons"][0]["first_difference"] == first


def test_hugging_face_is_a_judge_of_its_own(verify, checkpoint_folder, monkeypatch):
    """It tells a fault of the torch twin, also where a second checkpoint shares it."""
    faulty_weights("torch", transposed, "transformer.h.2")(monkeypatch)
    args = (checkpoint_folder, checkpoint_folder, "--against", "huggingface")
    code, report = verify(*args)
    assert code == 1
    assert [c["first_difference"] for c in report["comparisons"]] == [None, "h.2.attn"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_never_agree(verify, odd_config, tmp_path, value):
    def spoil(weights):
        weights["transformer.h.1.mlp.c_proj.bias"][0] = value

    folder, picture = write_changed(odd_config, tmp_path / "c", spoil), tmp_path / "p.png"
    code, report = verify(folder, folder, "--plot", picture)
    assert code == 1
    assert report["comparisons"][0]["first_difference"] == "h.1.mlp"
    assert report["comparisons"][0]["layers"][-1]["relative"] is None
    assert picture.exists()


def test_the_picture_is_a_png(call, checkpoint_folder, tmp_path):
    picture = tmp_path / "new" / "layers.png"
    result = call("convert.verify", checkpoint_folder, "--plot", picture)
    assert result.returncode == 0, result.stderr
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) > 10_000


@pytest.mark.parametrize("change", [{"n_layer": 2}, {"n_layer": 4}, {"block_size": 24}])
def test_two_checkpoints_of_different_shapes(call, odd_config, checkpoint_folder, tmp_path, change):
    other = write_changed(dataclasses.replace(odd_config, **change), tmp_path / "other")
    result = call("convert.verify", checkpoint_folder, other)
    assert_one_line_error(result, f"{other} against {checkpoint_folder}")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nowhere.safetensors",), ("nowhere.safetensors", "no such file")),
        (("--batch_size", 0), ("batch_size must be positive",)),
        (("--seq_len", 0), ("seq_len must be positive",)),
        (("--plot", "layers.pdf"), (".png", "layers.pdf")),
        (("--dtype", "float16"), ("float16", "--help")),
        (("--against", "nobody"), ("nobody", "--help")),
        (("--data", "nowhere.txt"), ("nowhere.txt", "no such file")),
        (("--batch_size", 99999), ("too few tokens",)),
    ],
)
def test_wrong_input_is_one_line(call, checkpoint_folder, args, words):
    assert_one_line_error(call("convert.verify", checkpoint_folder, *args), *words)


def test_transformers_missing(call, checkpoint_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    args = (checkpoint_folder, checkpoint_folder, "--against", "huggingface")
    assert_one_line_error(call("convert.verify", *args), "pip install transformers")


def test_the_tokens_are_the_first_of_the_data():
    (x, y), words = choose_tokens(VerifyConfig("c", batch_size=3, seq_len=50), GPTConfig())
    window = load_tokens("shakespeare")[:151].astype(np.int32)
    assert np.array_equal(x, window[:-1].reshape(3, 50))
    assert np.array_equal(y, window[1:].reshape(3, 50))
    assert words == "3 x 50 tokens from the start of shakespeare"


def test_random_tokens_are_those_of_the_vocabulary_and_always_the_same(odd_config):
    (x, y), _ = choose_tokens(VerifyConfig("c", batch_size=40), odd_config)
    assert x.shape == y.shape == (40, odd_config.block_size)
    assert x.dtype == y.dtype == np.int32
    assert 0 <= x.min() < 20
    assert odd_config.vocab_size - 20 < x.max() < odd_config.vocab_size
    again, _ = choose_tokens(VerifyConfig("c", batch_size=40), odd_config)
    assert np.array_equal(x, again[0])
    assert np.array_equal(x.ravel()[1:], y.ravel()[:-1])


def test_tokens_of_a_small_vocabulary_are_used(odd_config, tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(60, dtype=np.uint16))
    config = VerifyConfig("c", data=str(tmp_path / "tokens.npy"))
    (x, _), _ = choose_tokens(config, odd_config)
    assert np.array_equal(x.ravel(), np.arange(46))


def test_the_last_target_is_a_token_too(odd_config, tmp_path):
    np.save(tmp_path / "tokens.npy", np.array([*range(8), 997], np.uint16))
    config = VerifyConfig("c", data=str(tmp_path / "tokens.npy"), batch_size=2, seq_len=4)
    assert "random tokens" in choose_tokens(config, odd_config)[1]


def test_of_two_checkpoints_the_first_is_the_reference(verify, checkpoint_folder, tmp_path):
    other = shutil.copytree(checkpoint_folder, tmp_path / "other")
    code, report = verify(checkpoint_folder, other)
    (comparison,) = report["comparisons"]
    names = comparison["reference"], comparison["other"]
    assert (code, names) == (0, (str(checkpoint_folder), str(other)))


def test_transformers_gets_float64_as_it_is(odd_config):
    name = "transformer.wte.weight"
    weights = {n: w / np.float64(3) for n, w in random_weights(odd_config).items()}
    model = huggingface_model(Checkpoint(odd_config, weights), "float64")
    assert np.array_equal(model.get_parameter(name).detach().numpy(), weights[name])


@pytest.mark.parametrize(
    ("expected", "found", "max_abs", "relative"),
    [
        ([3.0, -4.0], [3.0, -3.0], 1.0, 0.2),
        ([0.0, 0.0], [0.0, 0.0], 0.0, 0.0),
        ([0.0, 0.0], [0.0, 1e-9], 1e-9, 1.0),
    ],
)
def test_a_difference(expected, found, max_abs, relative):
    d = difference("x", np.array(expected), np.array(found), 0.3)
    assert (d.max_abs, d.relative) == (max_abs, pytest.approx(relative))
    assert d.agrees == (relative < 0.3)


def test_a_comparison_tells_its_reference_from_the_other():
    first, second = np.array([[0.0, 2.0]]), np.array([[1.0, -4.0]])
    reference, other = (
        Trace("ours", {"logits": first}, 1.5),
        Trace("theirs", {"logits": second}, 2.5),
    )
    found = compare(reference, other, TOLERANCES["float32"])
    assert (found.reference, found.other, found.losses) == ("ours", "theirs", (1.5, 2.5))
    assert found.layers[0].max_abs == 6  # where the other is below
    assert found.kl_divergence == kl_divergence(first, second) != kl_divergence(second, first)


@pytest.mark.parametrize(("layer", "agrees"), [("ln_f", True), ("logits", False)])
def test_logits_are_held_to_less_than_the_layers_are(layer, agrees):
    """A difference of 3e-6 is rounding of a layer in float32, and not of the logits."""
    names, values = ("ln_f", "logits"), np.ones((1, 1, 4))
    reference, other = (
        Trace(who, {n: values * (1 + off * (n == layer)) for n in names}, 1.0)
        for who, off in (("a", 0), ("b", 3e-6))
    )
    assert compare(reference, other, TOLERANCES["float32"]).agrees == agrees


def test_kl_divergence():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    expected = 0.5 * np.log(2) - 0.25 * np.log(2)
    both = np.log([p, p]), np.log([q, p]) + 7  # a shift of the logits changes nothing
    assert kl_divergence(*both) == pytest.approx(expected / 2, rel=1e-14)
    assert kl_divergence(both[0], both[0]) == 0
    assert kl_divergence(np.array([[0.0, 900.0]]), np.array([[900.0, 0.0]])) == 900
    assert np.isnan(kl_divergence(np.array([[0.0, np.nan]]), np.array([[0.0, 1.0]])))


def test_convert_imports_frameworks_inside_functions_only():
    for path in (Path(__file__).parent.parent / "convert").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                packages = {name.split(".")[0] for name in names if name}
                assert not packages & {"torch", "jax", "flax", "transformers", "matplotlib"}
                assert not packages & {"gpt_torch", "gpt_flax"}
