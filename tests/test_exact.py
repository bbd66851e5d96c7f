"""`--exact`: the same text from both twins, in any batch, whatever rounding does."""

import dataclasses
import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gpt_common.checkpoint import Checkpoint, write_checkpoint
from gpt_common.completion import ROUNDING
from gpt_common.config import GPTConfig, SamplingOptions, StoppingOptions
from gpt_common.errors import InputError
from gpt_common.exact import Float64GPT, KVCache, round_logits
from tests.conftest import FLOAT32, FRAMEWORKS, assert_one_line_error, random_weights
from tests.parity.reference import ReferenceGPT
from tests.parity.twins import completions, outcome

TIED = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=24, vocab_size=500)
PROMPTS = [np.random.default_rng(n).integers(0, 500, 1 + n % 7).tolist() for n in range(32)]
SETTINGS = {
    "as it comes": (SamplingOptions(), StoppingOptions(max_new_tokens=16)),
    "all at once": (
        SamplingOptions(0.8, 20, 0.9, 0.01, repetition_penalty=1.3, seed=3),
        StoppingOptions(max_new_tokens=16),
    ),
    "window": (
        SamplingOptions(repetition_penalty=0.8),
        StoppingOptions(max_length=30, window=True, stop=("e",)),
    ),
}


def tied_weights(config):
    """Random weights in which some tokens come in pairs that differ in the last bits.

    Rounding decides which of the two has the larger logit.
    """
    weights = random_weights(config)
    wte, random = weights["transformer.wte.weight"], np.random.default_rng(1)
    first = wte[0 : len(wte) // 2 : 2]
    towards = random.choice([-np.inf, np.inf], first.shape).astype(np.float32)
    wte[1 : len(wte) // 2 : 2] = np.nextafter(first, towards)
    return weights


def tokens_of(*args, **how):
    return [c.tokens for c in completions(*args, **how)]


@pytest.fixture(scope="module")
def tied():
    return Checkpoint(TIED, tied_weights(TIED))


@pytest.fixture(scope="module", params=SETTINGS)
def case(request, tied):
    """Sampling, stopping, and what float64 writes."""
    how = SETTINGS[request.param]
    return *how, tokens_of("torch", tied, PROMPTS, *how, dtype="float64")


def test_the_text_is_float64s(framework, tied, case):
    """In a batch and alone; without it most texts part."""
    *how, expected = case
    assert tokens_of(framework, tied, PROMPTS, *how, exact=True) == expected
    assert tokens_of(framework, tied, PROMPTS[5:6], *how, exact=True) == expected[5:6]
    plain = tokens_of(framework, tied, PROMPTS, *how)
    assert sum(a != b for a, b in zip(plain, expected, strict=True)) > 3


def test_what_is_decided_and_what_is_not(framework, tied, monkeypatch):
    """Float64 is asked for close draws alone, and for no row that has ended."""
    asked, logits = [], Float64GPT.logits

    def spied(model, caches, inputs):
        asked.extend(inputs)
        return logits(model, caches, inputs)

    monkeypatch.setattr(Float64GPT, "logits", spied)
    stopping = StoppingOptions(max_new_tokens=16, stop=("e", "a"))
    plain = completions(framework, tied, PROMPTS[:6], None, stopping)
    assert not asked
    assert any(c.borderline_tokens("float32") for c in plain)
    found = completions(framework, tied, PROMPTS[:6], None, stopping, exact=True)
    decided = [(c.prompt + c.tokens)[: len(c.prompt) + i] for c in found for i in c.exact_tokens]
    assert sorted(asked) == sorted(decided)
    assert 0 < len(asked) < sum(len(c.tokens) for c in found)
    for completion in found:
        assert completion.borderline_tokens("float32") == []
        sure = set(range(len(completion.tokens))) - set(completion.exact_tokens)
        assert all(completion.margins[i] > ROUNDING["float32"] for i in sure)


def put_off(monkeypatch, framework, share):
    """Put an error of that share of the largest into the logits `(7, V)` of every step."""
    module = importlib.import_module(f"gpt_{framework}.generate")
    next_logits = module.next_logits
    signs = np.random.default_rng(0).choice([-share, share], (7, TIED.vocab_size))

    def off(*args):
        made = next_logits(*args)
        if framework == "torch":
            return made + (torch.tensor(signs) * made.abs().amax(-1, keepdim=True)).float()
        logits, cache = made
        error = signs * jnp.abs(logits).max(-1, keepdims=True)
        return logits + error.astype(jnp.float32), cache

    monkeypatch.setattr(module, "next_logits", off)


def test_an_error_below_rounding_changes_nothing(framework, monkeypatch):
    """Half of what is taken for rounding."""
    config = dataclasses.replace(TIED, n_embd=24)  # a shape whose compiled steps nothing else takes
    start = Checkpoint(config, tied_weights(config))
    how = SamplingOptions(), StoppingOptions(max_new_tokens=12)
    expected = tokens_of("torch", start, PROMPTS[:7], *how, dtype="float64")
    put_off(monkeypatch, framework, 5e-6)
    assert tokens_of(framework, start, PROMPTS[:7], *how) != expected
    assert tokens_of(framework, start, PROMPTS[:7], *how, exact=True) == expected


def test_an_error_above_rounding_is_told(framework, monkeypatch):
    """As of a model whose logits float32 cannot hold."""
    config = dataclasses.replace(TIED, n_embd=32)
    start = Checkpoint(config, tied_weights(config))
    put_off(monkeypatch, framework, 1e-3)
    with pytest.raises(InputError, match="this model rounds too much; try --dtype float64"):
        completions(framework, start, PROMPTS[:7], *SETTINGS["as it comes"], exact=True)


def test_equal_tokens_are_taken_by_their_number(tied):
    """That rounding may decide is said."""
    weights = tied.weights | {"transformer.wte.weight": tied.weights["transformer.wte.weight"] * 1}
    weights["transformer.wte.weight"][1::2] = weights["transformer.wte.weight"][::2]
    start, greedy = Checkpoint(TIED, weights), SamplingOptions(temperature=0.0)
    found = [
        completions(f, start, PROMPTS, greedy, StoppingOptions(max_new_tokens=5), exact=True)
        for f in FRAMEWORKS
    ]
    assert [c.tokens for c in found[0]] == [c.tokens for c in found[1]]
    for completion in found[0]:
        assert completion.exact_tokens == completion.borderline_tokens("float32") == [0, 1, 2, 3, 4]
        assert all(token % 2 == 0 for token in completion.tokens)


def test_logits_that_differ_by_float64s_rounding_are_equal():
    logits = np.array([[-3.0, 1.0, 1.0 + 4e-15, 1.0 + 1e-11], [0.0, 0.0, 0.0, 0.0]])
    found = round_logits(logits)
    assert found[0, 1] == found[0, 2] < found[0, 3]
    assert found == pytest.approx(logits, rel=0, abs=4e-13)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_float64s_logits_are_the_references(activation, odd_config):
    """Of rows of several lengths, read at once or in parts, and turned to another text."""
    config = dataclasses.replace(odd_config, activation=activation)
    weights = random_weights(config)
    x = np.random.default_rng(0).integers(0, 997, (2, 23))
    expected = ReferenceGPT(config, weights)(x, x).logits
    model, caches, (first, second) = (
        Float64GPT(config, lambda: weights),
        [KVCache(), KVCache()],
        x.tolist(),
    )
    for lengths in ((9, 4), (23, 5), (3, 6)):
        texts = [first[: lengths[0]], second[: lengths[1]]]
        found = model.logits(caches, texts)
        assert (round_logits(found) == found).all()
        for row, length in enumerate(lengths):
            assert found[row] == pytest.approx(expected[row, length - 1], rel=0, abs=1e-11)
    assert np.abs(expected).max() > 1


def test_only_the_rest_of_a_text_is_read(odd_config, monkeypatch):
    read, embed = [], Float64GPT._embed
    monkeypatch.setattr(Float64GPT, "_embed", lambda *a: read.append(a[2]) or embed(*a))
    model, cache, text = (
        Float64GPT(odd_config, lambda: random_weights(odd_config)),
        KVCache(),
        [*range(9)],
    )
    for given in (text[:5], text[:7], text, text[1:], text[1:], [*text[2:], 9, 10, 11]):
        model.logits([cache], [given])
    assert read == [0, 5, 7, 0, 0, 0]


def test_what_was_read_is_dropped_where_it_is_much(tied, monkeypatch):
    how = PROMPTS[:6], SamplingOptions(), StoppingOptions(max_new_tokens=16, ignore_end=True)
    starts, read, embed = {}, [], Float64GPT._embed
    monkeypatch.setattr(Float64GPT, "_embed", lambda *a: read.append(a[2]) or embed(*a))
    for limit in (2**20, 0):
        monkeypatch.setattr("gpt_common.exact.MAX_CACHE_BYTES", limit)
        found = tokens_of("torch", tied, *how, exact=True)
        starts[limit], read[:] = sum(read), []
        assert found == tokens_of("torch", tied, *how, dtype="float64")
    assert starts[0] < starts[2**20]


def test_float64_is_asked_for_float64s_rounding_alone(framework, tied):
    """Its own draws are far from close where those of float32 are."""
    how = PROMPTS[:6], *SETTINGS["as it comes"]
    close = sum(len(c.exact_tokens) for c in completions(framework, tied, *how, exact=True))
    found = completions(framework, tied, *how, dtype="float64", exact=True)
    assert close > 0 == sum(len(c.exact_tokens) for c in found)


def test_the_command_decides_by_its_dtype(call, framework, tied, tmp_path, monkeypatch):
    def told(config, weights, dtype="float32"):
        raise InputError(f"decides by {dtype}")

    module = importlib.import_module(f"gpt_{framework}.generate")
    monkeypatch.setattr(module, "Float64GPT", told)
    write_checkpoint(tmp_path / "m", tied)
    args = ("--init", tmp_path / "m", "--exact", "--dtype", "float64")
    assert_one_line_error(call(f"gpt_{framework}.generate", *args), "decides by float64")


def test_a_model_without_biases(odd_config):
    weights = random_weights(odd_config)
    zero = {k: np.zeros_like(w) if k.endswith(".bias") else w for k, w in weights.items()}
    bare = {k: w for k, w in weights.items() if not k.endswith(".bias")}
    ours, theirs = (
        Float64GPT(odd_config, w).logits([KVCache()], [[1, 2, 3]])
        for w in (lambda: bare, lambda: zero)
    )
    assert (ours == theirs).all()


def test_rounding_is_less_than_what_is_taken_for_it(framework, odd_config):
    x = np.random.default_rng(0).integers(0, 997, (8, 23))
    weights = random_weights(odd_config)
    expected = ReferenceGPT(odd_config, weights)(x, x).logits
    found = outcome(framework, odd_config, weights, x, x).logits
    error = np.abs(found - expected).max(-1) / np.abs(expected).max(-1)
    assert 0 < error.max() < ROUNDING["float32"] / 5


def test_the_weights_of_a_model_as_it_is_loaded(framework, tied):
    """Not prepared for inference, which the library can generate with too."""
    how = [PROMPTS[:2], None, StoppingOptions(max_new_tokens=6)]
    expected = tokens_of("torch", tied, *how, dtype="float64")
    module = importlib.import_module(f"gpt_{framework}.generate")
    if framework == "torch":
        model = (module.load_model(tied, torch.float32, torch.device("cpu")),)
    else:
        model = module.load_model(tied, "float32")
    found = module.generate(*model, *how, exact=True)
    assert [c.tokens for c in found] == expected


def test_bfloat16_is_too_coarse_in_the_library(framework, tied):
    with pytest.raises(InputError, match="exact: expected --dtype float32 or float64"):
        completions(framework, tied, PROMPTS[:1], *SETTINGS["window"], dtype="bfloat16", exact=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "tf32"])
def test_coarse_types_are_refused(call, framework, dtype):
    """Before a model is looked for."""
    args = ("--init", "nowhere", "--exact", "--dtype", dtype)
    assert_one_line_error(
        call(f"gpt_{framework}.generate", *args), f"float32 or float64, as {dtype} rounds"
    )


def test_the_command(call, tmp_path):
    """Both twins print the same, and how many draws float64 has decided."""
    config = GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=24)
    write_checkpoint(tmp_path / "m", Checkpoint(config, tied_weights(config)))
    args = ("--init", tmp_path / "m", *FLOAT32, "--exact", "--max_length", 20)
    shown = [call(f"gpt_{f}.generate", *args, "--explain").stdout for f in FRAMEWORKS]
    assert shown[0] == shown[1]
    report = json.loads(call("gpt_torch.generate", *args, "--json").stdout)
    decided = sum(len(sample["exact_draws"]) for sample in report["samples"])
    assert decided > 0
    assert report["exact"] is True
    assert [sample["close_draws"] for sample in report["samples"]] == [[]] * 5
    assert f"\n{decided} of 60 tokens were borderline and sampled in float64\n" in shown[0]
    assert "\n0 of 60 tokens are borderline" in shown[0]
    assert "largest logit, of at most 1e-13" in shown[0]
    plain = shown[0].partition(f"\n{decided} of 60")[0]
    assert plain + "\n" == call("gpt_torch.generate", *args).stdout
