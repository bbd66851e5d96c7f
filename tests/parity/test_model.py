"""One forward and backward pass of each twin against the reference."""

import dataclasses
import importlib
import math

import jax
import numpy as np
import pytest
import torch
from flax import linen
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import PRESETS, GPTConfig
from gpt_common.data import load_tokens
from gpt_common.errors import InputError
from gpt_common.initialization import residual_std
from gpt_common.weights import weight_shapes
from gpt_flax.model import GPT as FlaxGPT
from gpt_flax.model import layer_norm as flax_layer_norm
from gpt_flax.weights import from_hf as flax_from_hf
from gpt_flax.weights import to_hf as flax_to_hf
from gpt_torch.generate import load_model
from gpt_torch.model import GPT as TorchGPT
from gpt_torch.model import layer_norm as torch_layer_norm
from gpt_torch.weights import from_hf as torch_from_hf
from gpt_torch.weights import to_hf as torch_to_hf
from tests.conftest import FRAMEWORKS, random_weights
from tests.parity import reference
from tests.parity.reference import ReferenceGPT, batch
from tests.parity.test_reference import random_batch
from tests.parity.tolerances import FAST_LIMITS, LIMITS, outcome_differences, relative
from tests.parity.twins import outcome


@pytest.mark.parametrize(
    ("dtype", "B", "T", "activation"),
    [
        ("float64", 3, 17, "gelu_new"),
        ("float64", 3, 17, "gelu"),
        ("float64", 2, 23, "gelu_new"),
        ("float32", 3, 17, "gelu_new"),
        ("bfloat16", 3, 17, "gelu_new"),
        ("bfloat16", 3, 17, "gelu"),
        ("float16", 3, 17, "gelu_new"),
    ],
)
@pytest.mark.parametrize("fast", [False, True])
def test_layers_loss_and_every_gradient(
    framework, dtype, B, T, activation, fast, odd_config, agree
):
    """T = 23 is block_size itself; what float64 shows of it the others need not show again."""
    config = dataclasses.replace(odd_config, activation=activation)
    weights = random_weights(config)
    x, y = random_batch(config, B, T)
    found = outcome(framework, config, weights, x, y, dtype, fast=fast)
    assert found.logits.shape == (B, T, config.vocab_size)
    blocks = {f"h.{n}.{part}" for n in range(2) for part in ("attn", "mlp")}
    assert found.layers.keys() == blocks | {"embedding", "ln_f", "logits"}
    expected = ReferenceGPT(config, weights)(x, y)
    what = f"small {dtype} {framework}{' fast' if fast else ''}"
    agree(what, outcome_differences(found, expected), FAST_LIMITS[dtype])


@pytest.mark.parametrize("fast", [False, True])
def test_more_than_one_chunk_and_one_block(framework, fast, agree):
    """1,300 rows are two chunks of the loss and a rest, 650 positions four blocks of queries."""
    config = GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=700, vocab_size=97)
    weights = random_weights(config)
    x, y = random_batch(config, 2, 650)
    expected = ReferenceGPT(config, weights)(x, y)
    found = outcome(framework, config, weights, x, y, "float64", fast=fast)
    what = f"long float64 {framework}{' fast' if fast else ''}"
    agree(what, outcome_differences(found, expected), FAST_LIMITS["float64"])


@pytest.mark.parametrize(
    ("dtype", "fast"), [("float64", False), ("float32", True), ("bfloat16", True)]
)
def test_a_model_without_biases(framework, dtype, fast, odd_config, agree):
    config = dataclasses.replace(odd_config, bias=False)
    weights = random_weights(config)
    x, y = random_batch(config, 3, 17)
    found = outcome(framework, config, weights, x, y, dtype, fast=fast)
    expected = ReferenceGPT(config, weights)(x, y)
    assert found.gradients.keys() == expected.gradients.keys()
    what = f"no biases {dtype} {framework}"
    agree(what, outcome_differences(found, expected), LIMITS[dtype])


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("B", "T", "dtype", "fast"),
    [
        (1, 1, "float64", False),
        (8, 2, "float64", True),
        (2, 63, "float64", False),
        (1, 128, "float32", False),
        (1, 128, "float32", True),
        *(
            pytest.param(B, T, dtype, fast, marks=SLOW)
            for B, T in ((8, 128), (1, 1024))
            for dtype in ("float64", "float32")
            for fast in (False, True)
        ),
    ],
)
def test_real_text_at_real_sizes(framework, B, T, dtype, fast, agree):
    """The vocabulary of GPT-2, contexts up to its own, in a model that is narrow for speed.

    The shortest are for float64. With fewer than eight rows both frameworks add up the product of
    the logits' gradient and the embedding, over all of the vocabulary, in one float32 sum: 1e-5.
    """
    config = dataclasses.replace(PRESETS["tiny"], block_size=1024, n_embd=64)
    weights = random_weights(config)
    x, y = batch(load_tokens("shakespeare")[:], 3, B, T)
    expected = ReferenceGPT(config, weights)(x, y)
    found = outcome(framework, config, weights, x, y, dtype, fast=fast)
    what = f"real text {dtype} {framework}{' fast' if fast else ''}"
    limits = LIMITS if B * T > 128 else FAST_LIMITS
    agree(what, outcome_differences(found, expected), limits[dtype])


def test_the_loss_of_a_model_that_is_sure_of_its_targets(framework):
    """50256 small terms beside a large one: added to it one by one in float32, they are lost."""
    logits = np.random.default_rng(0).standard_normal((4, 64, 50257), np.float32)
    targets = np.arange(4 * 64).reshape(4, 64)
    logits[np.arange(4)[:, None], np.arange(64), targets] += 15
    expected, _ = reference.cross_entropy(logits.astype(np.float64), targets)
    assert 0.01 < expected < 0.1
    wrap = torch.from_numpy if framework == "torch" else jax.numpy.asarray
    cross_entropy = importlib.import_module(f"gpt_{framework}.model").cross_entropy
    assert cross_entropy(wrap(logits), wrap(targets)).item() == pytest.approx(expected, rel=4e-6)


def test_a_norm_far_from_zero(framework, odd_config):
    """Where E[x^2] - E[x]^2 would lose three digits more: the variance is taken in two passes."""
    config = dataclasses.replace(odd_config, n_embd=760)
    x = np.random.default_rng(0).normal(100, 1, (64, config.n_embd)).astype(np.float32)
    if framework == "torch":
        normed = torch_layer_norm(config)(torch.from_numpy(x)).detach().numpy()
    else:
        norm = flax_layer_norm(config)
        normed = np.asarray(norm.apply(norm.init(jax.random.key(0), x), x))
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    assert relative(normed, expected) < 2e-5


def test_activations_differ_as_they_should(framework, odd_config):
    """The erf and the tanh form are told apart: 1e-4, far above the tolerance."""
    weights = random_weights(odd_config)
    x, y = random_batch(odd_config, 3, 17)
    tanh, erf = (
        outcome(framework, dataclasses.replace(odd_config, activation=a), weights, x, y).logits
        for a in ("gelu_new", "gelu")
    )
    assert 1e-6 < relative(tanh, erf) < 1e-2


def test_a_position_sees_nothing_that_follows(framework, odd_config):
    weights = random_weights(odd_config)
    x, y = random_batch(odd_config, 3, 17)
    changed = x.copy()
    changed[:, 9] = (x[:, 9] + 1) % odd_config.vocab_size
    before, after = (outcome(framework, odd_config, weights, a, y).logits for a in (x, changed))
    assert (before[:, :9] == after[:, :9]).all()
    assert (before[:, 9:] != after[:, 9:]).any(axis=-1).all()


def test_the_gradient_of_a_position_for_what_follows_is_exactly_zero(framework, odd_config):
    """And for every position up to itself it is not."""
    x, _ = random_batch(odd_config, 1, 7)
    jacobian = EMBEDDING_JACOBIANS[framework](odd_config, random_weights(odd_config), x)
    sizes = np.abs(jacobian).max(axis=-1)  # of position t's logits, for the embedding at s: (t, s)
    assert (sizes[np.triu_indices(7, 1)] == 0).all()
    assert (sizes[np.tril_indices(7)] > 1e-6).all()


def torch_embedding_jacobian(config, weights, x):
    model = load_model(Checkpoint(config, weights), torch.float32, torch.device("cpu"))
    embedded = []
    model.h[0].register_forward_pre_hook(lambda _module, inputs: embedded.append(inputs[0]))
    logits, _ = model(torch.from_numpy(x))
    sums = [(logits[0, t] ** 2).sum() for t in range(x.shape[1])]
    gradients = [torch.autograd.grad(s, embedded[0], retain_graph=True)[0][0] for s in sums]
    return torch.stack(gradients).numpy()


def flax_embedding_jacobian(config, weights, x):
    params = {"params": flax_from_hf(weights, config, np.float32)}

    def sums(delta):
        def shifted(call, args, kwargs, context):
            if (context.module.name, context.method_name) == ("h_0", "__call__"):
                args = (args[0] + delta, *args[1:])
            return call(*args, **kwargs)

        with linen.intercept_methods(shifted):
            logits, _ = FlaxGPT(config).apply(params, x)
        return (logits[0] ** 2).sum(-1)

    return np.asarray(
        jax.jit(jax.jacobian(sums))(np.zeros((x.shape[1], config.n_embd), np.float32))
    )


EMBEDDING_JACOBIANS = {"torch": torch_embedding_jacobian, "flax": flax_embedding_jacobian}


def test_the_rows_of_a_batch_know_nothing_of_each_other(framework, odd_config):
    """Rows in another order give outputs in that order, and a row alone gives its own."""
    weights = random_weights(odd_config)
    x, y = random_batch(odd_config, 3, 17)
    order = [2, 0, 1]
    together, turned, alone = (
        outcome(framework, odd_config, weights, x[rows], y[rows]).logits
        for rows in (slice(None), order, [2])
    )
    assert relative(turned, together[order]) < 1e-6
    assert relative(alone, together[[2]]) < 1e-6


def test_a_sequence_above_block_size_is_refused(framework, odd_config):
    x, y = random_batch(odd_config, 1, 24)
    with pytest.raises(InputError, match="at most 23 tokens, got 24"):
        outcome(framework, odd_config, random_weights(odd_config), x, y)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("vocab_size", [960, 997])
def test_padded_rows_are_private(framework, vocab_size, fast, odd_config, agree):
    """They are zero, get no gradient, have no logit and are not handed out."""
    config = dataclasses.replace(odd_config, vocab_size=vocab_size)
    weights = random_weights(config)
    table = padded_embedding(framework, config, weights)
    assert len(table) == config.padded_vocab_size
    assert not table[vocab_size:].any()
    x, y = random_batch(config, 2, 9)
    found = outcome(framework, config, weights, x, y, fast=fast)
    assert found.logits.shape[-1] == vocab_size
    assert found.gradients["transformer.wte.weight"].shape == (vocab_size, 40)
    expected = ReferenceGPT(config, weights)(x, y)
    differences = outcome_differences(found, expected)
    agree(f"small float32 {framework}", differences, FAST_LIMITS["float32"])


def padded_embedding(framework, config, weights):
    if framework == "torch":
        return torch_from_hf(weights, config, torch.float32)["wte.weight"].numpy()
    return np.asarray(flax_from_hf(weights, config, np.float32)["wte"]["embedding"])


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.slow  # torch.compile, and jax operation by operation, take half a minute each
@pytest.mark.parametrize(("preset", "B", "T"), [("tiny", 4, 32), ("shakespeare", 8, 128)])
def test_compiled_is_eager(framework, preset, B, T, fast, agree):
    """XLA in jaxlib 0.10.2 is known to miscompile some CPU reductions without a word.

    torch.compile leaves oneDNN's products out, so the eager run does too: MKL, in their place,
    loses more of the head's sums of 50,257 where a model is as narrow as tiny, 1e-5 of a gradient.
    """
    how = {"fast": fast} | ({"onednn": False} if framework == "torch" else {})
    weights = random_weights(PRESETS[preset], scale=0.05)
    x, y = random_batch(PRESETS[preset], B, T)
    compiled, eager = (
        outcome(framework, PRESETS[preset], weights, x, y, compiled=compiled, **how)
        for compiled in (True, False)
    )
    differences = outcome_differences(compiled, eager)
    if framework == "torch":  # what is compiled shows its hooks nothing
        assert not differences.pop("layers")
    agree(f"compiled against eager {framework}", differences, LIMITS["float32"])


@settings(max_examples=50)
@given(
    framework=st.sampled_from(FRAMEWORKS),
    dtype=st.sampled_from([np.float32, np.float64]),
    config=st.builds(
        lambda n_head, head_size, **sizes: GPTConfig(
            n_head=n_head, n_embd=n_head * head_size, **sizes
        ),
        n_head=st.integers(1, 4),
        head_size=st.integers(1, 5),
        n_layer=st.integers(1, 12),
        block_size=st.integers(1, 9),
        vocab_size=st.integers(1, 130),
    ),
    seed=st.integers(0, 2**32),
)
def test_weights_go_in_and_come_out_bit_for_bit(framework, dtype, config, seed):
    """Any bits: NaN with its payload, infinities, and numbers too small to be normal."""
    random = np.random.default_rng(seed)
    size = np.dtype(dtype).itemsize
    weights = {
        name: np.frombuffer(random.bytes(size * math.prod(shape)), dtype).reshape(shape)
        for name, shape in weight_shapes(config).items()
    }
    outside = through(framework, weights, config, dtype)
    assert outside.keys() == weights.keys()
    for name, weight in weights.items():
        assert outside[name].dtype == dtype
        assert outside[name].shape == weight.shape
        assert outside[name].tobytes() == weight.tobytes(), name


def through(framework, weights, config, dtype):
    """Return weights that have been a twin's own."""
    if framework == "torch":
        inside = torch_from_hf(weights, config, getattr(torch, np.dtype(dtype).name))
        return torch_to_hf(inside, config)
    with jax.enable_x64(dtype == np.float64):
        return flax_to_hf(flax_from_hf(weights, config, dtype), config)


@pytest.mark.parametrize("bias", [True, False])
def test_the_tables_name_every_parameter(framework, bias, odd_config):
    """Those that the model itself makes, no more and no fewer."""
    config = dataclasses.replace(odd_config, bias=bias)
    table = importlib.import_module(f"gpt_{framework}.weights").name_table(config)
    assert table.keys() == weight_shapes(config).keys()
    if framework == "torch":
        named = {name for name, _ in TorchGPT(config).named_parameters()}
        assert {name for name, _ in table.values()} == named
    else:
        assert set(table.values()) == set(flat_flax_parameters(config))


def flat_flax_parameters(config):
    tokens = np.zeros((1, 4), np.int32)
    params = jax.jit(FlaxGPT(config).init)(jax.random.key(0), tokens)["params"]
    paths, _ = jax.tree.flatten_with_path(params)
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in paths}


def test_idiomatic_initialisers_draw_what_the_shared_one_does(framework, odd_config):
    config = dataclasses.replace(odd_config, n_embd=160)
    if framework == "torch":
        torch.manual_seed(0)
        named = dict(TorchGPT(config).named_parameters())
        weights = torch_to_hf(named, config)
        padding = named["wte.weight"][config.vocab_size :].detach().numpy()
    else:
        flat = flat_flax_parameters(config)
        table = importlib.import_module("gpt_flax.weights").name_table(config)
        weights = {hf_name: flat[path] for hf_name, path in table.items()}
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
