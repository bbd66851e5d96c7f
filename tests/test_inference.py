"""Inference weights compute what the trained ones do."""

import jax
import numpy as np
import pytest
import torch

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig, SamplingOptions, StoppingOptions
from gpt_flax import inference as flax_inference
from gpt_flax.generate import load_model as flax_load_model
from gpt_flax.precision import autocast as flax_autocast
from gpt_torch import inference as torch_inference
from gpt_torch.generate import generate as torch_generate
from gpt_torch.generate import load_model
from gpt_torch.inference import can_pack
from gpt_torch.precision import autocast
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
            models = model, torch_inference.prepare_for_inference(model, dtype)
            plain, inference = (m(torch.from_numpy(TOKENS))[0].numpy() for m in models)
        limit = limit or (1e-2 if torch.bfloat16 in torch_inference.onednn_dtypes() else 0)
    else:
        params, model = flax_load_model(start, dtype)
        both = (params, model), flax_inference.prepare_for_inference(params, model, dtype)
        with flax_autocast(dtype):
            plain, inference = (np.asarray(m.apply({"params": p}, TOKENS)[0]) for p, m in both)
    assert plain.shape == inference.shape == (2, 9, 997)
    assert np.linalg.norm(plain - inference) <= limit * np.linalg.norm(plain)


def test_all_that_multiplies_is_in_the_type_that_computes(framework, start):
    """Kernels, biases and the head: what is not is cast anew at each step."""
    if framework == "torch":
        model = load_model(start, torch.float32, torch.device("cpu"))
        inference = torch_inference.prepare_for_inference(model, "bfloat16")
        layers = [m for m in inference.modules() if isinstance(m, torch_inference.InferenceLinear)]
        assert len(layers) == 4 * 3 + 1
        assert {w.dtype for m in layers for w in (m.weight, m.bias) if w is not None} == {
            torch.bfloat16
        }
        return
    twin = flax_load_model(start, "bfloat16")
    params, _ = flax_inference.prepare_for_inference(*twin, "bfloat16")
    blocks = [params[f"h_{n}"][part] for n in range(3) for part in ("attn", "mlp")]
    leaves = jax.tree.leaves([params["lm_head"], blocks])
    assert {leaf.dtype.name for leaf in leaves} == {"bfloat16"}


def test_the_trained_model_stays_as_it_is(framework, start):
    """It can go on training, in its own type."""
    if framework == "torch":
        model = load_model(start, torch.float32, torch.device("cpu"))
        torch_inference.prepare_for_inference(model, "bfloat16")
        assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    else:
        params, model = flax_load_model(start, "bfloat16")
        before = {name: id(value) for name, value in params.items()}
        flax_inference.prepare_for_inference(params, model, "bfloat16")
        assert {name: id(value) for name, value in params.items()} == before


def test_where_weights_are_packed():
    both = (torch.float32, torch.bfloat16)
    assert can_pack("cpu", torch.float32, both, compiled=False)
    assert can_pack("cpu", torch.bfloat16, both, compiled=False)
    assert not can_pack("cpu", torch.bfloat16, (torch.float32,), compiled=False)
    assert not can_pack("cpu", torch.float64, both, compiled=False)
    assert not can_pack("cuda", torch.float32, both, compiled=False)
    assert not can_pack("cpu", torch.float32, (), compiled=False)
    assert not can_pack("cpu", torch.float32, both, compiled=True)


def test_torch_compiles_the_step_and_not_the_reading_of_prompts(start, monkeypatch):
    """Each length of a prompt would be compiled anew."""
    lengths = []
    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    model = load_model(start, torch.float32, torch.device("cpu"))
    inference = torch_inference.prepare_for_inference(model, "float32", compiled=True)
    step = inference.step
    inference.step = lambda model, tokens, *rest: (
        lengths.append(tokens.shape[1]) or step(model, tokens, *rest)
    )
    stopping = StoppingOptions(max_new_tokens=4)
    torch_generate(inference, [[1, 2, 3, 4, 5]], SamplingOptions(top_k=0), stopping)
    assert lengths == [1, 1, 1]


def test_weights_that_follow_are_not_initialized(start, monkeypatch):
    """For `normal_` on the device `meta` torch imports its compiler, which takes a second."""
    monkeypatch.setattr(torch.Tensor, "normal_", None)
    model = load_model(start, torch.float32, torch.device("cpu"))
    torch_inference.prepare_for_inference(model, "float32")
