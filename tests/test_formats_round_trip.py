"""Every format to every other and back, bit for bit."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import gpt_flax.weights
import gpt_torch.weights
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError
from gpt_common.formats import huggingface, msgpack_files, registry
from gpt_common.formats.registry import FORMATS
from gpt_common.storage import read_safetensors
from tests.checkpoints import ODD, TANH, WRITTEN, activation_of, assert_same, model, written
from tests.conftest import random_weights

PAIRS = [
    (first, second)
    for first in WRITTEN
    for second in WRITTEN
    if not ("nanogpt" in (first, second) and TANH & {first, second})
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_two_formats_round_trip(first, second, tmp_path):
    """From our weights to the first, to the second, and back."""
    activation = "gelu" if "nanogpt" in (first, second) else "gelu_new"
    checkpoint = model(activation)
    for name in (first, second):
        path = written(name, tmp_path, checkpoint)
        assert registry.detect(path).name == name
        read, form = registry.read(str(path))
        assert form.name == name
        assert read.config == checkpoint.config
        assert_same(read.weights, model(activation).weights)
        checkpoint = dataclasses.replace(read, training=None)


@st.composite
def small_configs(draw):
    heads, head_size = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    return GPTConfig(
        n_layer=draw(st.integers(1, 11)),  # so that two digits have their turn
        n_head=heads,
        n_embd=heads * head_size,
        block_size=draw(st.integers(1, 20)),
        vocab_size=draw(st.integers(1, 300)),
        activation=draw(st.sampled_from(["gelu_new", "gelu"])),
        bias=draw(st.booleans()),
    )


@pytest.mark.parametrize("first", WRITTEN)
@given(config=small_configs(), second=st.sampled_from(WRITTEN))
@settings(max_examples=8, derandomize=True, database=None, phases=[Phase.generate])
def test_any_small_model_round_trips_through_any_two_formats(
    first, config, second, tmp_path_factory
):
    """From Hugging Face's folder to the two and back, unless a format has another activation."""
    folder = tmp_path_factory.mktemp("round_trip")
    before = written("huggingface", folder, Checkpoint(config, random_weights(config)))
    checkpoint, _ = registry.read(str(before))
    for name, place in (first, folder / "first"), (second, folder / "second"):
        place.mkdir()
        if name in {"nanogpt", *TANH} and config.activation != activation_of(name):
            reason = f"{name} computes {activation_of(name)} .* activation is {config.activation}$"
            with pytest.raises(InputError, match=reason):
                written(name, place, checkpoint)
            assert not list(place.iterdir())
            return
        checkpoint, _ = registry.read(str(written(name, place, checkpoint)))
    after = written("huggingface", folder / "last", checkpoint)
    has_biases = config.bias or any(FORMATS[name].needs_biases for name in (first, second))
    assert registry.read(str(after))[0].config == dataclasses.replace(config, bias=has_biases)
    assert_same(*(read_safetensors(path / "model.safetensors") for path in (before, after)))


def test_the_twins_files_hold_what_the_twins_have_in_memory(tmp_path):
    checkpoint = model()
    state = torch.load(written("torch", tmp_path, checkpoint))
    tensors = gpt_torch.weights.from_hf(checkpoint.weights, ODD, torch.float32)
    assert list(state) == list(tensors)
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    tree = msgpack_files.load(written("flax", tmp_path, checkpoint))
    params = gpt_flax.weights.from_hf(checkpoint.weights, ODD, np.float32)
    flat, expected = (
        msgpack_files.flatten(jax.tree.map(np.asarray, t), "") for t in (tree, params)
    )
    assert_same(flat, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", WRITTEN)
def test_other_types_keep_their_bits(name, dtype, tmp_path):
    checkpoint = model(activation_of(name), dtype)
    if name == "llmc" and dtype != ml_dtypes.bfloat16:
        with pytest.raises(InputError, match="float32 or bfloat16"):
            written(name, tmp_path, checkpoint)
        return
    read, _ = registry.read(str(written(name, tmp_path, checkpoint)))
    assert_same(read.weights, checkpoint.weights)


@pytest.mark.parametrize("name", [n for n in WRITTEN if FORMATS[n].keeps_training])
def test_the_state_of_a_run_is_kept(name, tmp_path):
    checkpoint = model(activation_of(name), training=True)
    read, _ = registry.read(str(written(name, tmp_path, checkpoint)))
    assert read.training.step == 9
    assert_same(read.training.exp_avg, checkpoint.training.exp_avg)
    assert_same(read.training.exp_avg_sq, checkpoint.training.exp_avg_sq)


@pytest.mark.parametrize("name", ["build-nanogpt", "llmc"])
def test_an_activation_is_never_swapped(name, tmp_path):
    with pytest.raises(InputError, match=r"computes gelu_new .* this model's activation is gelu"):
        written(name, tmp_path, model("gelu"))
    with pytest.raises(InputError, match="computes gelu and"):
        written("nanogpt", tmp_path, model("gelu_new"))


def test_shards_hold_every_tensor_once():
    shards = huggingface.split(model().weights, 50_000)
    assert len(shards) > 5
    assert [name for shard in shards for name in shard] == list(model().weights)
