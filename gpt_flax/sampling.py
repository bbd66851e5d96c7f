"""How a token is chosen from logits: inverse cumulative probability, in float64.

Call it where jax has 64-bit types: `with jax.enable_x64(True)`.
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
    """The most probable tokens of each row, by falling probability, ties by token id: `(R, K)`.

    `scores` are logits over the temperature, of one token more than may be drawn where there is
    one; `weights` are probabilities over the first one's, and `cumulative` adds them up.
    """

    tokens: Array
    scores: Array
    weights: Array
    cumulative: Array


def sample(
    logits: Array, draws: Array, seen: Array | None, options: SamplingOptions
) -> tuple[Array, Array, Array]:
    """Return for each row of `logits` `(R, V)` a token, its log-probability and its margin, `(R,)`.

    The uniform `draws` `(R,)` choose; `seen` `(R, V)` tells the tokens that have occurred. The
    log-probability, in nats, is the model's own, before options change it. See `margin`.
    """
    ordered = sort_tokens(penalize(logits, seen, options), options)
    last = cutoff_index(ordered, options)
    total = gather(ordered.cumulative, last)
    below = (ordered.cumulative <= draws[:, None] * total).sum(-1, keepdims=True)
    chosen = jnp.minimum(below, last)  # where rounding puts a draw of nearly 1 past the end
    token = gather(ordered.tokens, chosen)
    logprob = gather(logits, token)[:, 0] - jax.nn.logsumexp(logits, -1)
    largest = jnp.abs(logits).max(-1).astype(jnp.float64)
    close = margin(ordered, chosen, last, draws, options)
    return token[:, 0], logprob.astype(jnp.float64), close / largest


jit_sample = jax.jit(sample, static_argnames="options")


def sample_arrays(
    options: SamplingOptions, logits: np.ndarray, draws: np.ndarray, seen: np.ndarray | None
) -> SampledTokens:
    """Return what `sample` does, of numpy arrays."""
    with jax.enable_x64(True):
        return SampledTokens(*map(np.asarray, jit_sample(logits, draws, seen, options)))


def penalize(logits: Array, seen: Array | None, options: SamplingOptions) -> Array:
    """Return logits with those of `seen` tokens lowered (Keskar et al. 2019, arXiv:1909.05858)."""
    if seen is None:
        return logits
    penalty = options.repetition_penalty
    lowered = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(seen, lowered, logits)


def sort_tokens(logits: Array, options: SamplingOptions) -> SortedTokens:
    """Return the tokens that temperature and `top_k` leave, in order."""
    V = logits.shape[-1]
    k = 1 if options.temperature == 0 else options.top_k or V
    values, tokens = top_k_tokens(logits, min(k + 1, V))
    scores = values.astype(jnp.float64) / (options.temperature or 1.0)
    weights = jnp.exp(scores - scores[:, :1])[:, :k]
    return SortedTokens(tokens, scores, weights, weights.cumsum(-1))


def top_k_tokens(logits: Array, k: int) -> tuple[Array, Array]:
    """Return the `k` largest logits of each row, falling, ties by token id, and their tokens."""
    values, tokens = jax.lax.top_k(logits, k)  # of equal ones, the lower index first
    return values, tokens.astype(jnp.int64)


def cutoff_index(ordered: SortedTokens, options: SamplingOptions) -> Array:
    """Return the place of the last token that `top_p` and `min_p` leave, `(R, 1)`.

    `top_p` (Holtzman et al. 2020, arXiv:1904.09751): tokens above which less than that share lies.
    `min_p` (Nguyen et al. 2025, arXiv:2407.01082): as probable as that share of the first.
    """
    kept = (exclusive_cumulative(ordered) < options.top_p) & (ordered.weights >= options.min_p)
    return jnp.maximum(kept.sum(-1, keepdims=True) - 1, 0)  # 0 also where logits are NaN


def exclusive_cumulative(ordered: SortedTokens) -> Array:
    """Return the probability of all tokens that are more probable than each, `(R, K)`."""
    return (ordered.cumulative - ordered.weights) / ordered.cumulative[:, -1:]


def margin(
    ordered: SortedTokens, chosen: Array, last: Array, draws: Array, options: SamplingOptions
) -> Array:
    """Return how far all logits may be off before a row's draw may take another token, `(R,)`.

    An error of e in each logit is at most d = e m / temperature in each score, where the penalty
    multiplies by m at most. The odds c / (1 - c) of a cumulative probability then change at most by
    a factor of exp(2 d), and two tokens change places where their scores are 2 d apart.
    """
    scores, cumulative = ordered.scores, ordered.cumulative
    end, total = scores.shape[-1] - 1, gather(cumulative, last)
    weight, upper = gather(ordered.weights, chosen), gather(cumulative, chosen) / total
    score = gather(scores, chosen)
    before = gather(scores, jnp.maximum(chosen - 1, 0)) - score
    after = score - gather(scores, jnp.minimum(chosen + 1, end))
    moves = [
        boundary_margin(upper, draws[:, None]),
        boundary_margin(upper - weight / total, draws[:, None]),
        jnp.where(chosen > 0, before, jnp.inf) / 2,
        jnp.where(chosen < end, after, jnp.inf) / 2,
    ]
    edge = jnp.concatenate([last, jnp.minimum(last + 1, cumulative.shape[-1] - 1)], -1)
    if options.top_p < 1:
        moves.append(boundary_margin(gather(exclusive_cumulative(ordered), edge), options.top_p))
    if options.min_p > 0:
        gaps = jnp.log(gather(ordered.weights, edge)) - math.log(options.min_p)
        moves.append(jnp.abs(gaps) / 2)
    penalty = max(options.repetition_penalty, 1 / options.repetition_penalty)
    return jnp.concatenate(moves, -1).min(-1) * (options.temperature or 1.0) / penalty


def boundary_margin(share: Array, target: Array | float) -> Array:
    """Return the error in each score that may move a cumulative probability onto a target.

    That is half the logarithm of the ratio of their odds.
    """
    odds = (target - share) / (share * (1 - target))  # the ratio less 1
    return jnp.where(share > 0, jnp.abs(jnp.log1p(odds)) / 2, jnp.inf)


def gather(values: Array, places: Array) -> Array:
    """Return the values of each row at some places: torch's `gather` along the last axis."""
    return jnp.take_along_axis(values, places, -1)
