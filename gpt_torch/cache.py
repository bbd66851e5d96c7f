"""The key-value cache: keys and values of earlier tokens, and the attention to them."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_common.config import GPTConfig
from gpt_torch.model import GPT


class LayerCache(NamedTuple):
    """Keys and values of one layer, for up to S tokens: each `(B, nh, S, hs)`."""

    keys: Tensor
    values: Tensor


Cache = list[LayerCache]


class CachePositions(NamedTuple):
    """Where new tokens are in the cache, and which keys they attend to; the same in all layers.

    `rows` is `(B, 1)`, `positions` `(B, T)`, and `mask` `(B, 1, T, S)`, which is added to the
    scores.
    """

    rows: Tensor
    positions: Tensor
    mask: Tensor


class CachedAttention:
    """The attention of one layer to its cache, which it updates in place."""

    def __init__(self, cache: LayerCache, at: CachePositions) -> None:
        self.cache, self.at = cache, at

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write `k` and `v` `(B, nh, T, hs)` to the cache, and attend to it in its dtype."""
        keys = update_cache(self.cache.keys, k, self.at)
        values = update_cache(self.cache.values, v, self.at)
        with torch.autocast(q.device.type, enabled=False):  # which would cast to bfloat16
            y = F.scaled_dot_product_attention(q.to(keys.dtype), keys, values, self.at.mask)
        return y.to(q.dtype)


def forward_cached(
    model: GPT, tokens: Tensor, positions: Tensor, last: Tensor, cache: Cache
) -> Tensor:
    """Return the logits `(B, V)` that follow the token at index `last` `(B,)` of each row.

    `tokens` and their `positions` are `(B, T)`. Their keys and values are written to the cache;
    each token attends to the cache up to its own position.
    """
    at = cache_positions(cache, positions)
    x = model.hidden(tokens, positions, [CachedAttention(layer, at) for layer in cache])
    return model.head(x[torch.arange(len(x), device=x.device), last])


def cache_positions(cache: Cache, positions: Tensor) -> CachePositions:
    """Return the cache positions of tokens at `positions` `(B, T)`, with a causal mask."""
    keys, device = cache[0].keys, positions.device
    later = torch.arange(keys.shape[2], device=device) > positions[:, None, :, None]
    mask = torch.zeros(later.shape, dtype=keys.dtype, device=device).masked_fill(later, -math.inf)
    return CachePositions(torch.arange(len(positions), device=device)[:, None], positions, mask)


def update_cache(cached: Tensor, new: Tensor, at: CachePositions) -> Tensor:
    """Write `new` `(B, nh, T, hs)` to the cache `(B, nh, S, hs)`, and return it."""
    cached[at.rows, :, at.positions] = new.transpose(1, 2).to(cached.dtype)
    return cached


def empty_cache(
    config: GPTConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device
) -> Cache:
    """Return a cache of zeros for `rows` sequences of up to `length` tokens."""
    shape = (rows, config.n_head, length, config.n_embd // config.n_head)
    return [
        LayerCache(*(torch.zeros(shape, dtype=dtype, device=device) for _ in LayerCache._fields))
        for _ in range(config.n_layer)
    ]


def cache_dtype(device_type: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the cache of a model that computes in `dtype`.

    On a CPU at least float32: torch's attention of one token to a bfloat16 cache is slower.
    """
    return torch.promote_types(dtype, torch.float32) if device_type == "cpu" else dtype
