"""Sampling the next token from its logits, by the inverse cumulative distribution in float64."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt_common.completion import SampledTokens
from gpt_common.config import SamplingOptions


class SortedTokens(NamedTuple):
    """The most probable tokens of each row, the most probable first, ties by token id: `(R, K)`.

    `scores` are logits over the temperature, and have one token more than can be sampled, if there
    is one. `weights` are probabilities over the largest, and `cumulative` is their cumulative sum.
    """

    tokens: Tensor
    scores: Tensor
    weights: Tensor
    cumulative: Tensor


def sample(
    logits: Tensor, uniforms: Tensor, seen: Tensor | None, options: SamplingOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample a token for each row of `logits` `(R, V)`; return it, its log-probability, its margin.

    `uniforms` `(R,)` are uniform samples in [0, 1); `seen` `(R, V)` marks the tokens that have
    occurred. The log-probability, in nats, is that of the unmodified logits. See `margin`.
    """
    ordered = sort_tokens(penalize(logits, seen, options), options)
    last = cutoff_index(ordered, options)
    total = ordered.cumulative.gather(-1, last)
    below = (ordered.cumulative <= uniforms[:, None] * total).sum(-1, keepdim=True)
    index = torch.minimum(below, last)  # rounding may put a uniform near 1 past the end
    token = ordered.tokens.gather(-1, index)
    logprob = logits.gather(-1, token)[:, 0] - logits.logsumexp(-1)
    largest = logits.abs().amax(-1).double()
    error = margin(ordered, index, last, uniforms, options)
    return token[:, 0], logprob.double(), error / largest


def sample_arrays(
    options: SamplingOptions, logits: np.ndarray, uniforms: np.ndarray, seen: np.ndarray | None
) -> SampledTokens:
    """Call `sample` on numpy arrays."""
    seen_tensor = None if seen is None else torch.from_numpy(seen)
    rows = torch.from_numpy(logits), torch.from_numpy(uniforms), seen_tensor
    return SampledTokens(*(column.numpy() for column in sample(*rows, options)))


def penalize(logits: Tensor, seen: Tensor | None, options: SamplingOptions) -> Tensor:
    """Apply the repetition penalty to `seen` tokens (Keskar et al. 2019, arXiv:1909.05858)."""
    if seen is None:
        return logits
    penalty = options.repetition_penalty
    lowered = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, lowered, logits)


def sort_tokens(logits: Tensor, options: SamplingOptions) -> SortedTokens:
    """Apply temperature and `top_k`, and return the remaining tokens, sorted."""
    V = logits.shape[-1]
    k = 1 if options.temperature == 0 else options.top_k or V
    values, tokens = top_k_tokens(logits, min(k + 1, V))
    scores = values.double() / (options.temperature or 1.0)
    weights = torch.exp(scores - scores[:, :1])[:, :k]
    return SortedTokens(tokens, scores, weights, weights.cumsum(-1))


def top_k_tokens(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest logits of each row, in descending order, and their tokens.

    Ties are in the order of token ids, which `torch.topk` does not promise. So if the last one is
    tied, as is common in bfloat16, surplus ties are dropped and `topk` is called again. On a GPU
    that is always done: to ask the GPU is to wait for it.
    """
    values, tokens = logits.topk(min(k + 1, logits.shape[-1]))
    if logits.is_cuda or (values[:, k:] == values[:, k - 1 : k]).any():
        values, tokens = drop_surplus_ties(logits, values[:, :k]).topk(k)
    values, (tokens, order) = values[:, :k], tokens[:, :k].sort(dim=-1)
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return values, tokens.gather(-1, order)


def drop_surplus_ties(logits: Tensor, largest: Tensor) -> Tensor:
    """Mask the logits that equal the last of the `largest`, except the first ones that fit there.

    This is faster than sorting all logits.
    """
    smallest = largest[:, -1:]
    count = (largest == smallest).sum(-1, keepdim=True)
    ties = logits == smallest
    surplus = ties & (ties.cumsum(-1, dtype=torch.int32) > count)
    return logits.masked_fill(surplus, -math.inf)


def cutoff_index(ordered: SortedTokens, options: SamplingOptions) -> Tensor:
    """Return the index of the last token that `top_p` and `min_p` keep, `(R, 1)`.

    `top_p` (Holtzman et al. 2020, arXiv:1904.09751) keeps the fewest most probable tokens whose
    probabilities add up to `top_p`. `min_p` (Nguyen et al. 2025, arXiv:2407.01082) keeps tokens of
    at least `min_p` times the largest probability.
    """
    kept = (exclusive_cumulative(ordered) < options.top_p) & (ordered.weights >= options.min_p)
    return (kept.sum(-1, keepdim=True) - 1).clamp(min=0)  # 0 also for NaN logits


def exclusive_cumulative(ordered: SortedTokens) -> Tensor:
    """Return the cumulative probability of the tokens before each token, `(R, K)`."""
    return (ordered.cumulative - ordered.weights) / ordered.cumulative[:, -1:]


def margin(
    ordered: SortedTokens, index: Tensor, last: Tensor, uniforms: Tensor, options: SamplingOptions
) -> Tensor:
    """Return the largest error of all logits at which the same token is sampled, `(R,)`.

    An error of e in each logit is at most d = e m / temperature in each score, where m is the
    largest factor of the penalty. The odds c / (1 - c) of a cumulative probability then change at
    most by a factor of exp(2 d), and two tokens swap if their scores are at most 2 d apart.
    """
    scores, cumulative = ordered.scores, ordered.cumulative
    end, total = scores.shape[-1] - 1, cumulative.gather(-1, last)
    weight, upper = ordered.weights.gather(-1, index), cumulative.gather(-1, index) / total
    score = scores.gather(-1, index)
    before = scores.gather(-1, (index - 1).clamp(min=0)) - score
    after = score - scores.gather(-1, (index + 1).clamp(max=end))
    margins = [
        boundary_margin(upper, uniforms[:, None]),
        boundary_margin(upper - weight / total, uniforms[:, None]),
        torch.where(index > 0, before, torch.inf) / 2,
        torch.where(index < end, after, torch.inf) / 2,
    ]
    cutoff = torch.cat([last, (last + 1).clamp(max=cumulative.shape[-1] - 1)], -1)
    if options.top_p < 1:
        before_cutoff = exclusive_cumulative(ordered).gather(-1, cutoff)
        margins.append(boundary_margin(before_cutoff, options.top_p))
    if options.min_p > 0:
        gaps = ordered.weights.gather(-1, cutoff).log() - math.log(options.min_p)
        margins.append(gaps.abs() / 2)
    penalty = max(options.repetition_penalty, 1 / options.repetition_penalty)
    return torch.cat(margins, -1).amin(-1) * (options.temperature or 1.0) / penalty


def boundary_margin(cumulative: Tensor, boundary: Tensor | float) -> Tensor:
    """Return the error of each score that may move a cumulative probability to a boundary.

    It is half the logarithm of the ratio of their odds.
    """
    odds = (boundary - cumulative) / (cumulative * (1 - boundary))  # their ratio, minus 1
    return torch.where(cumulative > 0, torch.log1p(odds).abs() / 2, torch.inf)
