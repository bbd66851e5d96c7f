"""The command line of `python -m convert`."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from gpt_common.formats import registry
from gpt_common.formats.registry import FORMATS
from gpt_common.weights import weight_shapes
from tests.checkpoints import ODD, assert_same, model, written
from tests.conftest import assert_one_line_error, random_weights


def test_a_run_converts_to_and_fro(tmp_path, call):
    source = written("huggingface", tmp_path, model(training=True))
    for first, second in (
        (source, "a.bin"), ("a.bin", "b.msgpack"), ("b.msgpack", "c.pt"), ("c.pt", "d")
    ):  # fmt: skip
        result = call("convert.__main__", tmp_path / first, tmp_path / second)
        assert result.returncode == 0, result.stderr
        assert f"{sum(np.prod(s) for s in weight_shapes(ODD).values()):,}" in result.stdout
    assert (
        "no place for the state of the run"
        in call("convert.__main__", source, tmp_path / "e.bin").stdout
    )
    assert_same(registry.read(str(tmp_path / "d"))[0].weights, model().weights)


def test_a_cast_is_asked_for_and_said(tmp_path, call):
    source = written("huggingface", tmp_path, model())
    result = call("convert.__main__", source, tmp_path / "a.bin", "--dtype", "bfloat16")
    assert "cast to bfloat16" in result.stdout
    read, _ = registry.read(str(tmp_path / "a.bin"))
    assert_same(read.weights, {k: w.astype(ml_dtypes.bfloat16) for k, w in model().weights.items()})


def test_a_cast_that_would_make_weights_infinite_is_refused(tmp_path, call):
    checkpoint = model()
    checkpoint.weights["transformer.ln_f.bias"][0] = 70_000
    source = written("huggingface", tmp_path, checkpoint)
    result = call("convert.__main__", source, tmp_path / "out", "--dtype", "float16")
    assert_one_line_error(result, "transformer.ln_f.bias: expected weights that float16 can hold")
    assert not (tmp_path / "out").exists()
    checkpoint.weights["transformer.ln_f.bias"][0] = np.inf  # which it was before, and stays
    FORMATS["huggingface"].write(source, checkpoint)
    assert call("convert.__main__", source, tmp_path / "out", "--dtype", "float16").returncode == 0


def test_the_state_of_a_run_is_left_out_where_weights_are_asked_for(tmp_path, call):
    source = written("huggingface", tmp_path, model(training=True))
    for flags, kept in (((), True), (("--weights_only",), False)):
        out = tmp_path / f"out{kept}"
        result = call("convert.__main__", source, out, *flags)
        assert ("the state of the run: left out" in result.stdout) != kept
        assert (out / "optimizer.safetensors").exists() == kept
        assert (out / "training_state.json").exists() == kept
        assert (registry.read(str(out))[0].training is not None) == kept


def test_padding_of_the_vocabulary_is_kept_or_cut_as_asked(tmp_path, call):
    config = dataclasses.replace(ODD, vocab_size=50304, n_layer=1, activation="gelu")
    weights = random_weights(config)
    checkpoint = dataclasses.replace(model("gelu"), config=config, weights=weights)
    source = written("nanogpt", tmp_path, checkpoint)
    result = call("convert.__main__", source, tmp_path / "whole")
    assert "47 of them padding: kept" in result.stdout
    assert_same(registry.read(str(tmp_path / "whole"))[0].weights, weights)
    result = call("convert.__main__", source, tmp_path / "cut", "--vocab_size", 50257)
    assert "cut to the first 50257" in result.stdout
    read, _ = registry.read(str(tmp_path / "cut"))
    assert read.config.vocab_size == 50257
    embedding = "transformer.wte.weight"
    assert_same(read.weights, weights | {embedding: weights[embedding][:50257]})
    for size in (50305, 0):
        result = call("convert.__main__", source, tmp_path / "more", "--vocab_size", size)
        assert_one_line_error(result, f"vocab_size must be 1 to 50304, got {size}")


def test_the_moments_are_cut_with_the_vocabulary(tmp_path, call):
    checkpoint = model(training=True)
    source = written("huggingface", tmp_path, checkpoint)
    assert call("convert.__main__", source, tmp_path / "cut", "--vocab_size", 900).returncode == 0
    found, embedding = registry.read(str(tmp_path / "cut"))[0].training, "transformer.wte.weight"
    for moment in ("exp_avg", "exp_avg_sq"):
        before = getattr(checkpoint.training, moment)
        cut = before | {embedding: before[embedding][:900]}
        assert_same(getattr(found, moment), cut)


def test_the_list_names_every_format(call):
    output = call("convert.__main__", "--list").stdout
    assert all(name in output for name in FORMATS)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ("expected SOURCE and DESTINATION",)),
        (("{tmp}/missing.pt", "{tmp}/out"), ("missing.pt: no such file or folder",)),
        (("{tmp}/huggingface", "{tmp}/out.xyz"), ("expected --to", ".xyz")),
        (("{tmp}/huggingface", "{tmp}/out", "--to", "openai"), ("openai is only read",)),
        (("{tmp}/huggingface", "{tmp}/out", "--to", "onnx"), ("expected --to", "onnx")),
        (("{tmp}/huggingface", "{tmp}/huggingface"), ("there already", "--overwrite")),
        (("{tmp}", "{tmp}/out"), ("expected one of the formats",)),
    ],
)
def test_wrong_input_is_one_line(args, words, tmp_path, call):
    written("huggingface", tmp_path, model())
    args = [a.format(tmp=tmp_path) for a in args]
    assert_one_line_error(call("convert.__main__", *args), *words)
    assert not (tmp_path / "out").exists()
