"""One forward and backward pass: each twin, in float32, against Hugging Face's GPT-2 in float64."""

import importlib

import jax
import numpy as np
import pytest
import torch

from gpt_common.checkpoint import Checkpoint
from gpt_common.errors import InputError
from gpt_common.initialization import residual_std
from gpt_flax.model import GPT as FlaxGPT
from gpt_flax.weights import from_neutral as flax_from_neutral
from gpt_flax.weights import to_neutral as flax_to_neutral
from gpt_torch.generate import load_model
from gpt_torch.model import GPT as TorchGPT
from gpt_torch.weights import from_neutral as torch_from_neutral
from gpt_torch.weights import to_neutral as torch_to_neutral
from tests.conftest import random_weights
from tests.parity.twins import OUTCOMES, hugging_face_outcome, relative, with_changes


def batch(config, B, T):
    tokens = np.random.default_rng(5).integers(0, config.vocab_size, (B, T + 1), np.int32)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
@pytest.mark.parametrize(("B", "T"), [(3, 17), (2, 23), (1, 1)])
def test_logits_loss_and_every_gradient(framework, odd_config, activation, B, T):
    config = with_changes(odd_config, activation=activation)
    weights = random_weights(config)
    x, y = batch(config, B, T)
    found = OUTCOMES[framework](config, weights, x, y)
    expected = hugging_face_outcome(config, weights, x, y)
    assert found.logits.shape == (B, T, config.vocab_size)
    assert relative(found.logits, expected.logits) < 2e-6
    assert found.loss == pytest.approx(expected.loss, rel=5e-7)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        if T == 1 and name.endswith("c_attn.weight"):
            continue  # q and k have no gradient where there is one position to look at
        assert relative(found.gradients[name], gradient) < 3e-6, name


def test_activations_differ_as_they_should(framework, odd_config):
    """The erf and the tanh form are told apart: 1e-4, far above the tolerance."""
    weights = random_weights(odd_config)
    x, y = batch(odd_config, 2, 17)
    tanh, erf = (
        OUTCOMES[framework](with_changes(odd_config, activation=a), weights, x, y).logits
        for a in ("gelu_new", "gelu")
    )
    assert 1e-6 < relative(tanh, erf) < 1e-2


def test_a_position_sees_nothing_that_follows(framework, odd_config):
    weights = random_weights(odd_config)
    x, y = batch(odd_config, 2, 17)
    changed = x.copy()
    changed[:, 9] = (x[:, 9] + 1) % odd_config.vocab_size
    before, after = (OUTCOMES[framework](odd_config, weights, a, y).logits for a in (x, changed))
    assert (before[:, :9] == after[:, :9]).all()
    assert (before[:, 9:] != after[:, 9:]).any(axis=-1).all()


def test_a_sequence_above_block_size_is_refused(framework, odd_config):
    x, y = batch(odd_config, 1, 24)
    with pytest.raises(InputError, match="at most 23 tokens, got 24"):
        OUTCOMES[framework](odd_config, random_weights(odd_config), x, y)


@pytest.mark.parametrize("vocab_size", [960, 997])
def test_padded_rows_are_private(framework, odd_config, vocab_size):
    """They are zero, get no gradient, have no logit and are not handed out."""
    config = with_changes(odd_config, vocab_size=vocab_size)
    weights = random_weights(config)
    table = padded_embedding(framework, config, weights)
    assert len(table) == config.padded_vocab_size
    assert not table[vocab_size:].any()
    found = OUTCOMES[framework](config, weights, *batch(config, 2, 9))
    assert found.logits.shape[-1] == vocab_size
    assert found.gradients["transformer.wte.weight"].shape == (vocab_size, 40)


def padded_embedding(framework, config, weights):
    if framework == "torch":
        return torch_from_neutral(weights, config, torch.float32)["wte.weight"].numpy()
    return np.asarray(flax_from_neutral(weights, config, np.float32)["wte"]["embedding"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_go_in_and_come_out_bit_for_bit(framework, odd_config, dtype):
    weights = {k: w.astype(dtype) for k, w in random_weights(odd_config).items()}
    if framework == "torch":
        inside = torch_from_neutral(weights, odd_config, getattr(torch, np.dtype(dtype).name))
        outside = torch_to_neutral(inside, odd_config)
    else:
        with jax.enable_x64(dtype == np.float64):
            outside = flax_to_neutral(flax_from_neutral(weights, odd_config, dtype), odd_config)
    assert outside.keys() == weights.keys()
    for name, weight in weights.items():
        assert outside[name].dtype == dtype
        assert outside[name].tobytes() == weight.tobytes(), name


def test_the_tables_name_every_parameter(framework, odd_config):
    """Those that the model itself makes, no more and no fewer."""
    table = importlib.import_module(f"gpt_{framework}.weights").name_table(odd_config)
    if framework == "torch":
        named = {name for name, _ in TorchGPT(odd_config).named_parameters()}
        assert {name for name, _ in table.values()} == named
    else:
        assert set(table.values()) == set(flat_flax_parameters(odd_config))


def flat_flax_parameters(config):
    tokens = np.zeros((1, 4), np.int32)
    params = FlaxGPT(config).init(jax.random.key(0), tokens)["params"]
    paths, _ = jax.tree.flatten_with_path(params)
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in paths}


def test_idiomatic_initialisers_draw_what_the_shared_one_does(framework, odd_config):
    config = with_changes(odd_config, n_embd=160, n_layer=8)
    if framework == "torch":
        torch.manual_seed(0)
        named = dict(TorchGPT(config).named_parameters())
        weights = torch_to_neutral(named, config)
        padding = named["wte.weight"][config.vocab_size :].detach().numpy()
    else:
        flat = flat_flax_parameters(config)
        table = importlib.import_module("gpt_flax.weights").name_table(config)
        weights = {neutral: flat[path] for neutral, path in table.items()}
        padding = flat["wte/embedding"][config.vocab_size :]
    assert not padding.any()
    for name, values in weights.items():
        if name.endswith(".bias"):
            assert not values.any()
        elif ".ln_" in name:
            assert (values == 1).all()
        else:
            std = residual_std(config) if name.endswith("c_proj.weight") else 0.02
            used = values[: config.vocab_size]
            assert used.std() == pytest.approx(std, rel=0.05), name


def test_bfloat16_is_near_and_logits_leave_in_float32(odd_config):
    weights = random_weights(odd_config)
    x, _ = batch(odd_config, 2, 17)
    exact = OUTCOMES["torch"](odd_config, weights, x, x).logits
    model = load_model(Checkpoint(odd_config, weights), torch.float32, torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        ours = model(torch.from_numpy(x).long())[0]
    params = flax_from_neutral(weights, odd_config, np.float32)
    theirs = FlaxGPT(odd_config, jax.numpy.bfloat16).apply({"params": params}, x)[0]
    assert ours.dtype == torch.float32
    assert theirs.dtype == np.float32
    for logits in (ours.detach().numpy(), np.asarray(theirs)):
        assert 1e-4 < relative(logits, exact) < 2e-2
