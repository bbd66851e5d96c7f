"""The choice of a token in both twins, against plain Python and transformers' processors."""

import math

import jax
import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt_common.config import SamplingOptions
from gpt_common.sampling import uniforms
from gpt_flax import sampling as flax_sampling
from gpt_torch import sampling as torch_sampling

ALL = {"top_k": 0}


def drawn(framework, logits, draws, seen=None, **options):
    """Return tokens, log-probabilities and margins as numpy arrays."""
    options = SamplingOptions(**options)
    if framework == "torch":
        seen = None if seen is None else torch.tensor(seen)
        results = torch_sampling.sample(torch.tensor(logits), torch.tensor(draws), seen, options)
    else:
        with jax.enable_x64(True):
            results = flax_sampling.sample(
                jax.numpy.array(logits), jax.numpy.array(draws), seen, options
            )
    return [np.asarray(result) for result in results]


def top_k_tokens(framework, logits, k):
    """Return the k largest logits of each row and their tokens, as numpy arrays."""
    if framework == "torch":
        return [a.numpy() for a in torch_sampling.top_k_tokens(torch.tensor(logits), k)]
    with jax.enable_x64(True):
        return [np.asarray(a) for a in flax_sampling.top_k_tokens(jax.numpy.array(logits), k)]


def plain_choice(logits, draw):
    """Return the token whose share of the cumulative probability has the draw in it."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    weights = [math.exp(logits[token] - logits[order[0]]) for token in order]
    reached = 0.0
    for token, weight in zip(order, weights, strict=True):
        reached += weight
        if draw * sum(weights) < reached:
            return token
    return order[-1]


def test_a_draw_depends_on_seed_sample_and_position_alone():
    draws = uniforms(5, range(4), 30)
    assert (uniforms(5, [1, 0, 1], 12) == draws[[1, 0, 1], :12]).all()
    for start in range(9):
        assert (uniforms(5, [3, 0], 7, [start, 2]) == [draws[3][start:][:7], draws[0][2:9]]).all()
    assert uniforms(5, [0], 2, [10**12]).shape == (1, 2)
    assert not (uniforms(6, range(4), 30) == draws).any()
    assert len(np.unique(draws)) == draws.size


def test_a_seed_gives_what_it_always_gave():
    """A text can be made again next year: these numbers are numpy's for good."""
    assert uniforms(0, [0, 1], 2) == pytest.approx(
        np.array([[0.01406704, 0.25776725], [0.60736599, 0.50373054]]), abs=1e-8
    )
    assert uniforms(1, [0], 2) == pytest.approx(np.array([[0.06680201, 0.07901298]]), abs=1e-8)


def test_draws_are_uniform():
    draws = uniforms(1, range(50), 1000)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, 10, (0, 1))
    assert abs(counts - 5000).max() < 5 * np.sqrt(5000)


def test_samples_are_where_the_cumulative_probability_says(framework):
    probabilities = np.array([0.1, 0.4, 0.2, 0.2, 0.1])  # order: 1, 2, 3, 0, 4
    draws = np.array([0, 0.39, 0.41, 0.59, 0.61, 0.79, 0.81, 0.89, 0.91, 0.999])
    logits = np.tile(np.log(probabilities), (10, 1))
    tokens, logprobs, _ = drawn(framework, logits, draws, **ALL)
    assert tokens.tolist() == [1, 1, 2, 2, 3, 3, 0, 0, 4, 4]
    assert logprobs == pytest.approx(np.log(probabilities[tokens]))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 2}, [1, 2]),
        ({"top_k": 4}, [1, 2, 3, 0]),
        ({"top_k": 5}, [1, 2, 3, 0, 4]),
        (ALL, [1, 2, 3, 0, 4]),
        ({"top_k": 0, "top_p": 0.39}, [1]),
        ({"top_k": 0, "top_p": 0.41}, [1, 2]),
        ({"top_k": 2, "top_p": 0.65}, [1]),  # of what top_k left, 0.67 is the first's
        ({"top_k": 0, "min_p": 0.49}, [1, 2, 3]),
        ({"top_k": 0, "min_p": 0.51}, [1]),
        ({"temperature": 0.0}, [1]),
    ],
)
def test_what_is_kept_and_how_often_it_is_drawn(framework, options, kept):
    probabilities = np.array([0.1, 0.4, 0.2, 0.2, 0.1])
    draws = np.linspace(0, 0.99999, 1000)
    logits = np.tile(np.log(probabilities), (1000, 1))
    tokens, _, _ = drawn(framework, logits, draws, **options)
    assert list(dict.fromkeys(tokens.tolist())) == kept
    for token in kept:
        share = probabilities[token] / probabilities[kept].sum()
        assert (tokens == token).mean() == pytest.approx(share, abs=2e-3)


def test_ties_stand_by_their_number_also_at_the_edge(framework):
    """The last that top_k keeps is the first of four equal ones; alone it is the first of all."""
    logits = np.array([[0, 2, 1, 1, 3, 1, 1]] * 2, np.float32)
    draws = np.array([0.9999, 0.0])
    assert drawn(framework, logits, draws, top_k=3)[0].tolist() == [2, 4]
    equal = np.zeros((1, 7), np.float32)
    assert drawn(framework, equal, draws[:1], top_k=3)[0].tolist() == [2]
    assert drawn(framework, equal, draws[:1], temperature=0.0)[0].tolist() == [0]


@pytest.mark.parametrize("k", [1, 2, 50, 998])
@pytest.mark.parametrize("levels", [1, 3, 20, 500])
def test_the_most_probable_are_the_first_of_a_stable_sort(framework, levels, k):
    """Of rows with few levels, most of them tied at the edge, and others that are not."""
    logits = np.random.default_rng(levels).integers(0, levels, (9, 999)).astype(np.float32)
    logits[0] = np.arange(999)
    tokens = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    values, found = top_k_tokens(framework, logits, k)
    assert np.array_equal(found, tokens)
    assert np.array_equal(values, np.take_along_axis(logits, tokens, -1))


SETTINGS = [
    {},
    {"temperature": 0.7, "top_k": 0},
    {"temperature": 1.9, "top_k": 0, "top_p": 0.8},
    {"top_k": 7, "top_p": 0.6},
    {"top_k": 0, "min_p": 0.03},
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 3.0, "temperature": 9.0, "top_k": 0},  # where negative logits count
    {"repetition_penalty": 0.8, "temperature": 0.5, "top_k": 30, "top_p": 0.95, "min_p": 0.01},
]


def transformers_scores(logits, seen, options):
    """Return the logits as transformers' own processors leave them."""
    processors = LogitsProcessorList()
    if options.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    processors.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        processors.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        processors.append(TopPLogitsWarper(options.top_p))
    if options.min_p > 0:
        processors.append(MinPLogitsWarper(options.min_p))
    rows = [
        processors(torch.tensor(s.nonzero()[0])[None], torch.tensor(row)[None])[0]
        for row, s in zip(logits, seen, strict=True)
    ]
    return torch.stack(rows).double().numpy()


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_distribution_is_transformers(framework, settings):
    random = np.random.default_rng(0)
    logits = 3 * random.standard_normal((40, 200)).astype(np.float64)
    seen = random.random((40, 200)) < 0.2
    draws = random.random(40)
    options = SamplingOptions(**settings)
    scores = transformers_scores(logits, seen, options)
    expected = [plain_choice(row, draw) for row, draw in zip(scores, draws, strict=True)]
    penalized = seen if options.repetition_penalty != 1 else None
    tokens, logprobs, _ = drawn(framework, logits, draws, penalized, **settings)
    assert tokens.tolist() == expected
    own = torch.tensor(logits).log_softmax(-1).numpy()[np.arange(40), tokens]
    assert logprobs == pytest.approx(own)


def worst_errors(logits, seen):
    """Yield signs `(R, V)`: at random, and all tokens down to some place against the others."""
    penalized = np.where(seen, np.where(logits < 0, 2, 0.5) * logits, logits)
    random = np.random.default_rng(2)
    for _ in range(5):
        yield random.choice([-1.0, 1.0], logits.shape)
    for order in (logits, penalized):
        ranks = (-order).argsort(-1).argsort(-1)
        for place in range(20):
            yield np.where(ranks <= place, 1.0, -1.0)
            yield np.where(ranks <= place, -1.0, 1.0)


def random_case(rows, V=60):
    random = np.random.default_rng(1)
    logits = 3 * random.standard_normal((rows, V))
    return logits, random.random(rows), random.random((rows, V)) < 0.2


def changed_tokens(framework, share, logits, draws, seen, settings):
    """Return which rows some error of that share of the margin gives another token."""
    if "repetition_penalty" not in settings:
        seen = None
    tokens, _, margins = drawn(framework, logits, draws, seen, **settings)
    size = share * np.minimum(margins * np.abs(logits).max(-1), 10)[:, None]
    errors = list(worst_errors(logits, np.zeros_like(logits, bool) if seen is None else seen))
    wrong = np.concatenate([logits + size * error for error in errors])
    draws, seen = (None if a is None else np.concatenate([a] * len(errors)) for a in (draws, seen))
    others = drawn(framework, wrong, draws, seen, **settings)[0]
    return (others.reshape(-1, len(tokens)) != tokens).any(0)


@pytest.mark.parametrize("settings", [*SETTINGS, {"temperature": 0.0, "repetition_penalty": 2.0}])
def test_within_the_slack_no_error_of_the_logits_changes_a_token(framework, settings):
    """However large the margin is."""
    assert not changed_tokens(framework, 0.999, *random_case(100), settings).any()


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"temperature": 0.6}, {"temperature": 0.0}])
def test_beyond_the_slack_there_is_an_error_that_does(framework, settings):
    assert changed_tokens(framework, 1.001, *random_case(100), settings).mean() > 0.9


def test_a_share_that_is_exactly_top_p_is_enough(framework):
    equal = np.zeros((1, 4), np.float32)
    tokens, _, _ = drawn(framework, equal, np.array([0.999]), top_k=0, top_p=0.5)
    assert tokens.tolist() == [1]


def test_both_twins_give_the_same_numbers():
    random = np.random.default_rng(3)
    logits, draws = random.standard_normal((50, 500)).astype(np.float32), random.random(50)
    ours, theirs = (
        drawn(framework, logits, draws, **SETTINGS[2]) for framework in ("torch", "flax")
    )
    assert (ours[0] == theirs[0]).all()
    assert ours[1] == pytest.approx(theirs[1], rel=1e-5)
    assert ours[2] == pytest.approx(theirs[2], rel=1e-6)
