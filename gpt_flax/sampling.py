"""Sampling the next token from its logits, by the inverse cumulative distribution in float64.

Call it with 64-bit types enabled: `with jax.enable_x64(True)`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt_common.completion import SampledTokens
from gpt_common.config import SamplingOptions


class SortedTokens(NamedTuple):
    """The most probable tokens of each row, the most probable first, ties by token id: `(R, K)`.

    `scores` are logits over the temperature, and have one token more than can be sampled, if there
    is one. `weights` are probabilities over the largest, and `cumulative` is their cumulative sum.
    """

    tokens: Array
    scores: Array
    weights: Array
    cumulative: Array


def sample(
    logits: Array, uniforms: Array, seen: Array | None, options: SamplingOptions
) -> tuple[Array, Array, Array]:
    """Sample a token for each row of `logits` `(R, V)`; return it, its log-probability, its margin.

    `uniforms` `(R,)` are uniform samples in [0, 1); `seen` `(R, V)` marks the tokens that have
    occurred. The log-probability, in nats, is that of the unmodified logits. See `margin`.
    """
    ordered = sort_tokens(penalize(logits, seen, options), options)
    last = cutoff_index(ordered, options)
    total = gather(ordered.cumulative, last)
    below = (ordered.cumulative <= uniforms[:, None] * total).sum(-1, keepdims=True)
    index = jnp.minimum(below, last)  # rounding may put a uniform near 1 past the end
    token = gather(ordered.tokens, index)
    logprob = gather(logits, token)[:, 0] - jax.nn.logsumexp(logits, -1)
    largest = jnp.abs(logits).max(-1).astype(jnp.float64)
    error = margin(ordered, index, last, uniforms, options)
    return token[:, 0], logprob.astype(jnp.float64), error / largest


jit_sample = jax.jit(sample, static_argnames="options")


def sample_arrays(
    options: SamplingOptions, logits: np.ndarray, uniforms: np.ndarray, seen: np.ndarray | None
) -> SampledTokens:
    """Call `sample` on numpy arrays."""
    with jax.enable_x64(True):
        return SampledTokens(*map(np.asarray, jit_sample(logits, uniforms, seen, options)))


def penalize(logits: Array, seen: Array | None, options: SamplingOptions) -> Array:
    """Apply the repetition penalty to `seen` tokens (Keskar et al. 2019, arXiv:1909.05858)."""
    if seen is None:
        return logits
    penalty = options.repetition_penalty
    lowered = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(seen, lowered, logits)


def sort_tokens(logits: Array, options: SamplingOptions) -> SortedTokens:
    """Apply temperature and `top_k`, and return the remaining tokens, sorted."""
    V = logits.shape[-1]
    k = 1 if options.temperature == 0 else options.top_k or V
    values, tokens = top_k_tokens(logits, min(k + 1, V))
    scores = values.astype(jnp.float64) / (options.temperature or 1.0)
    weights = jnp.exp(scores - scores[:, :1])[:, :k]
    return SortedTokens(tokens, scores, weights, weights.cumsum(-1))


def top_k_tokens(logits: Array, k: int) -> tuple[Array, Array]:
    """Return the `k` largest logits of each row, in descending order, and their tokens."""
    values, tokens = jax.lax.top_k(logits, k)  # ties by index
    return values, tokens.astype(jnp.int64)


def cutoff_index(ordered: SortedTokens, options: SamplingOptions) -> Array:
    """Return the index of the last token that `top_p` and `min_p` keep, `(R, 1)`.

    `top_p` (Holtzman et al. 2020, arXiv:1904.09751) keeps the fewest most probable tokens whose
    probabilities add up to `top_p`. `min_p` (Nguyen et al. 2025, arXiv:2407.01082) keeps tokens of
    at least `min_p` times the largest probability.
    """
    kept = (exclusive_cumulative(ordered) < options.top_p) & (ordered.weights >= options.min_p)
    return jnp.maximum(kept.sum(-1, keepdims=True) - 1, 0)  # 0 also for NaN logits


def exclusive_cumulative(ordered: SortedTokens) -> Array:
    """Return the cumulative probability of the tokens before each token, `(R, K)`."""
    return (ordered.cumulative - ordered.weights) / ordered.cumulative[:, -1:]


def margin(
    ordered: SortedTokens, index: Array, last: Array, uniforms: Array, options: SamplingOptions
) -> Array:
    """Return the largest error of all logits at which the same token is sampled, `(R,)`.

    An error of e in each logit is at most d = e m / temperature in each score, where m is the
    largest factor of the penalty. The odds c / (1 - c) of a cumulative probability then change at
    most by a factor of exp(2 d), and two tokens swap if their scores are at most 2 d apart.
    """
    scores, cumulative = ordered.scores, ordered.cumulative
    end, total = scores.shape[-1] - 1, gather(cumulative, last)
    weight, upper = gather(ordered.weights, index), gather(cumulative, index) / total
    score = gather(scores, index)
    before = gather(scores, jnp.maximum(index - 1, 0)) - score
    after = score - gather(scores, jnp.minimum(index + 1, end))
    margins = [
        boundary_margin(upper, uniforms[:, None]),
        boundary_margin(upper - weight / total, uniforms[:, None]),
        jnp.where(index > 0, before, jnp.inf) / 2,
        jnp.where(index < end, after, jnp.inf) / 2,
    ]
    cutoff = jnp.concatenate([last, jnp.minimum(last + 1, cumulative.shape[-1] - 1)], -1)
    if options.top_p < 1:
        before_cutoff = gather(exclusive_cumulative(ordered), cutoff)
        margins.append(boundary_margin(before_cutoff, options.top_p))
    if options.min_p > 0:
        gaps = jnp.log(gather(ordered.weights, cutoff)) - math.log(options.min_p)
        margins.append(jnp.abs(gaps) / 2)
    penalty = max(options.repetition_penalty, 1 / options.repetition_penalty)
    return jnp.concatenate(margins, -1).min(-1) * (options.temperature or 1.0) / penalty


def boundary_margin(cumulative: Array, boundary: Array | float) -> Array:
    """Return the error of each score that may move a cumulative probability to a boundary.

    It is half the logarithm of the ratio of their odds.
    """
    odds = (boundary - cumulative) / (cumulative * (1 - boundary))  # their ratio, minus 1
    return jnp.where(cumulative > 0, jnp.abs(jnp.log1p(odds)) / 2, jnp.inf)


def gather(values: Array, indices: Array) -> Array:
    """Return the values of each row at `indices`, as `torch.gather` does along the last axis."""
    return jnp.take_along_axis(values, indices, -1)
