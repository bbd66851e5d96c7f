"""How a token is chosen from logits: inverse cumulative probability, in float64."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt_common.completion import SampledTokens
from gpt_common.config import SamplingOptions


class SortedTokens(NamedTuple):
    """The most probable tokens of each row, by falling probability, ties by token id: `(R, K)`.

    `scores` are logits over the temperature, of one token more than may be drawn where there is
    one; `weights` are probabilities over the first one's, and `cumulative` adds them up.
    """

    tokens: Tensor
    scores: Tensor
    weights: Tensor
    cumulative: Tensor


def sample(
    logits: Tensor, draws: Tensor, seen: Tensor | None, options: SamplingOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each row of `logits` `(R, V)` a token, its log-probability and its margin, `(R,)`.

    The uniform `draws` `(R,)` choose; `seen` `(R, V)` tells the tokens that have occurred. The
    log-probability, in nats, is the model's own, before options change it. See `margin`.
    """
    ordered = sort_tokens(penalize(logits, seen, options), options)
    last = cutoff_index(ordered, options)
    total = ordered.cumulative.gather(-1, last)
    below = (ordered.cumulative <= draws[:, None] * total).sum(-1, keepdim=True)
    chosen = torch.minimum(below, last)  # where rounding puts a draw of nearly 1 past the end
    token = ordered.tokens.gather(-1, chosen)
    logprob = logits.gather(-1, token)[:, 0] - logits.logsumexp(-1)
    largest = logits.abs().amax(-1).double()
    close = margin(ordered, chosen, last, draws, options)
    return token[:, 0], logprob.double(), close / largest


def sample_arrays(
    options: SamplingOptions, logits: np.ndarray, draws: np.ndarray, seen: np.ndarray | None
) -> SampledTokens:
    """Return what `sample` does, of numpy arrays."""
    occurred = None if seen is None else torch.from_numpy(seen)
    drawn = sample(torch.from_numpy(logits), torch.from_numpy(draws), occurred, options)
    return SampledTokens(*(column.numpy() for column in drawn))


def penalize(logits: Tensor, seen: Tensor | None, options: SamplingOptions) -> Tensor:
    """Return logits with those of `seen` tokens lowered (Keskar et al. 2019, arXiv:1909.05858)."""
    if seen is None:
        return logits
    penalty = options.repetition_penalty
    lowered = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, lowered, logits)


def sort_tokens(logits: Tensor, options: SamplingOptions) -> SortedTokens:
    """Return the tokens that temperature and `top_k` leave, in order."""
    V = logits.shape[-1]
    k = 1 if options.temperature == 0 else options.top_k or V
    values, tokens = top_k_tokens(logits, min(k + 1, V))
    scores = values.double() / (options.temperature or 1.0)
    weights = torch.exp(scores - scores[:, :1])[:, :k]
    return SortedTokens(tokens, scores, weights, weights.cumsum(-1))


def top_k_tokens(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest logits of each row, falling, ties by token id, and their tokens.

    torch's `topk` gives no order to ties. So where one stands at the edge, as it mostly does where
    logits come from bfloat16, the tokens that are too many are taken out, and `topk` called again:
    on a GPU always, as it is faster than to wait for the answer.
    """
    values, tokens = logits.topk(min(k + 1, logits.shape[-1]))
    if logits.is_cuda or (values[:, k:] == values[:, k - 1 : k]).any():
        values, tokens = drop_surplus_ties(logits, values[:, :k]).topk(k)
    values, (tokens, order) = values[:, :k], tokens[:, :k].sort(dim=-1)
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return values, tokens.gather(-1, order)


def drop_surplus_ties(logits: Tensor, largest: Tensor) -> Tensor:
    """Return `logits` without those that equal the last of the `largest` and have no place there.

    For 5 rows of GPT-2's tokens 1 ms, where to sort them takes 11 (two cores of AMD Zen 4).
    """
    edge = largest[:, -1:]
    places = (largest == edge).sum(-1, keepdim=True)
    equal = logits == edge
    late = equal & (equal.cumsum(-1, dtype=torch.int32) > places)
    return logits.masked_fill(late, -math.inf)


def cutoff_index(ordered: SortedTokens, options: SamplingOptions) -> Tensor:
    """Return the place of the last token that `top_p` and `min_p` leave, `(R, 1)`.

    `top_p` (Holtzman et al. 2020, arXiv:1904.09751): tokens above which less than that share lies.
    `min_p` (Nguyen et al. 2025, arXiv:2407.01082): as probable as that share of the first.
    """
    kept = (exclusive_cumulative(ordered) < options.top_p) & (ordered.weights >= options.min_p)
    return (kept.sum(-1, keepdim=True) - 1).clamp(min=0)  # 0 also where logits are NaN


def exclusive_cumulative(ordered: SortedTokens) -> Tensor:
    """Return the probability of all tokens that are more probable than each, `(R, K)`."""
    return (ordered.cumulative - ordered.weights) / ordered.cumulative[:, -1:]


def margin(
    ordered: SortedTokens, chosen: Tensor, last: Tensor, draws: Tensor, options: SamplingOptions
) -> Tensor:
    """Return how far all logits may be off before a row's draw may take another token, `(R,)`.

    An error of e in each logit is at most d = e m / temperature in each score, where the penalty
    multiplies by m at most. The odds c / (1 - c) of a cumulative probability then change at most by
    a factor of exp(2 d), and two tokens change places where their scores are 2 d apart.
    """
    scores, cumulative = ordered.scores, ordered.cumulative
    end, total = scores.shape[-1] - 1, cumulative.gather(-1, last)
    weight, upper = ordered.weights.gather(-1, chosen), cumulative.gather(-1, chosen) / total
    score = scores.gather(-1, chosen)
    before = scores.gather(-1, (chosen - 1).clamp(min=0)) - score
    after = score - scores.gather(-1, (chosen + 1).clamp(max=end))
    moves = [
        boundary_margin(upper, draws[:, None]),
        boundary_margin(upper - weight / total, draws[:, None]),
        torch.where(chosen > 0, before, torch.inf) / 2,
        torch.where(chosen < end, after, torch.inf) / 2,
    ]
    edge = torch.cat([last, (last + 1).clamp(max=cumulative.shape[-1] - 1)], -1)
    if options.top_p < 1:
        moves.append(boundary_margin(exclusive_cumulative(ordered).gather(-1, edge), options.top_p))
    if options.min_p > 0:
        gaps = ordered.weights.gather(-1, edge).log() - math.log(options.min_p)
        moves.append(gaps.abs() / 2)
    penalty = max(options.repetition_penalty, 1 / options.repetition_penalty)
    return torch.cat(moves, -1).amin(-1) * (options.temperature or 1.0) / penalty


def boundary_margin(share: Tensor, target: Tensor | float) -> Tensor:
    """Return the error in each score that may move a cumulative probability onto a target.

    That is half the logarithm of the ratio of their odds.
    """
    odds = (target - share) / (share * (1 - target))  # the ratio less 1
    return torch.where(share > 0, torch.log1p(odds).abs() / 2, torch.inf)
