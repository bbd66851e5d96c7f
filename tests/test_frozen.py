"""Weights frozen for generation compute what the trained ones do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig, SamplingOptions, StoppingOptions
from gpt_flax import frozen as flax_frozen
from gpt_flax import generate as flax_generate
from gpt_flax.model import GPT as FlaxGPT
from gpt_torch import frozen as torch_frozen
from gpt_torch.frozen import packs
from gpt_torch.generate import autocast, load_model
from gpt_torch.generate import generate as torch_generate
from tests.conftest import random_weights

TOKENS = np.random.default_rng(0).integers(0, 997, (2, 9))


@pytest.fixture
def start(odd_config):
    return Checkpoint(odd_config, random_weights(odd_config))


@pytest.mark.parametrize(
    ("dtype", "limit", "bias"),
    [("float32", 2e-6, True), ("bfloat16", 0, True), ("float32", 2e-6, False)],
)
def test_the_same_logits(framework, odd_config, dtype, limit, bias):
    """In bfloat16 to the bit, as it is only cast sooner, where oneDNN does not pack it."""
    config = GPTConfig(**vars(odd_config) | {"bias": bias})
    start = Checkpoint(config, random_weights(config))
    if framework == "torch":
        model = load_model(start, torch.float32, torch.device("cpu"))
        with torch.inference_mode(), autocast(torch.device("cpu"), dtype):
            models = model, torch_frozen.freeze(model, dtype)
            plain, frozen = (m(torch.from_numpy(TOKENS))[0].numpy() for m in models)
        limit = limit or (1e-2 if torch.bfloat16 in torch_frozen.onednn_dtypes() else 0)
    else:
        params, model = flax_generate.load_model(start, dtype)
        both = params, flax_frozen.freeze(params, model)[0]
        plain, frozen = (np.asarray(model.apply({"params": p}, TOKENS)[0]) for p in both)
    assert plain.shape == frozen.shape == (2, 9, 997)
    assert np.linalg.norm(plain - frozen) <= limit * np.linalg.norm(plain)


def test_all_that_multiplies_is_in_the_type_that_computes(framework, start):
    """Kernels, biases and the head: what is not is cast anew at each step."""
    if framework == "torch":
        model = load_model(start, torch.float32, torch.device("cpu"))
        frozen = torch_frozen.freeze(model, "bfloat16")
        layers = [m for m in frozen.modules() if isinstance(m, torch_frozen.FrozenLinear)]
        assert len(layers) == 4 * 3 + 1
        assert {w.dtype for m in layers for w in (m.weight, m.bias) if w is not None} == {
            torch.bfloat16
        }
        return
    params, _ = flax_frozen.freeze(*flax_generate.load_model(start, "bfloat16"))
    blocks = [params[f"h_{n}"][part] for n in range(3) for part in ("attn", "mlp")]
    leaves = jax.tree.leaves([params["lm_head"], blocks])
    assert {leaf.dtype.name for leaf in leaves} == {"bfloat16"}


def test_the_trained_model_stays_as_it_is(framework, start):
    """It can go on training, in its own type."""
    if framework == "torch":
        model = load_model(start, torch.float32, torch.device("cpu"))
        torch_frozen.freeze(model, "bfloat16")
        assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    else:
        params, _ = flax_generate.load_model(start, "bfloat16")
        before = {name: id(value) for name, value in params.items()}
        flax_frozen.freeze(params, FlaxGPT(start.config, jnp.bfloat16))
        assert {name: id(value) for name, value in params.items()} == before


def test_where_weights_are_packed():
    both = (torch.float32, torch.bfloat16)
    assert packs("cpu", torch.float32, both, compiled=False)
    assert packs("cpu", torch.bfloat16, both, compiled=False)
    assert not packs("cpu", torch.bfloat16, (torch.float32,), compiled=False)
    assert not packs("cpu", torch.float64, both, compiled=False)
    assert not packs("cuda", torch.float32, both, compiled=False)
    assert not packs("cpu", torch.float32, (), compiled=False)
    assert not packs("cpu", torch.float32, both, compiled=True)


def test_torch_compiles_the_step_and_not_the_reading_of_prompts(start, monkeypatch):
    """Each length of a prompt would be compiled anew."""
    lengths = []
    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    model = load_model(start, torch.float32, torch.device("cpu"))
    frozen = torch_frozen.freeze(model, "float32", compiled=True)
    step = frozen.compiled_step
    frozen.compiled_step = lambda tokens, *rest: (
        lengths.append(tokens.shape[1]) or step(tokens, *rest)
    )
    stopping = StoppingOptions(max_new_tokens=4)
    torch_generate(frozen, [[1, 2, 3, 4, 5]], SamplingOptions(top_k=0), stopping)
    assert lengths == [1, 1, 1]
