"""The cache of generation: keys and values of earlier tokens, and attention to them."""

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
    """Where tokens are in a cache, and which keys they see, in every layer.

    `rows` `(B, 1)`, `positions` `(B, T)`, and `mask` `(B, 1, T, S)`, which is added to the scores.
    """

    rows: Tensor
    positions: Tensor
    mask: Tensor


class CachedAttention:
    """The attention of one layer to its cache, which it updates in place."""

    def __init__(self, cache: LayerCache, at: CachePositions) -> None:
        self.cache, self.at = cache, at

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write `k` and `v` `(B, nh, T, hs)` to the cache, and attend to it in its type."""
        keys, values = update(self.cache.keys, k, self.at), update(self.cache.values, v, self.at)
        with torch.autocast(q.device.type, enabled=False):  # it would cast to bfloat16
            y = F.scaled_dot_product_attention(q.to(keys.dtype), keys, values, self.at.mask)
        return y.to(q.dtype)


def forward_cached(
    model: GPT, tokens: Tensor, positions: Tensor, last: Tensor, cache: Cache
) -> Tensor:
    """Return the logits `(B, V)` that follow the token at index `last` `(B,)` of each row.

    `tokens` and their `positions` are `(B, T)`. Each token sees the cache up to its position; its
    own keys and values are written to it.
    """
    at = cache_positions(cache, positions)
    x = model.hidden(tokens, positions, [CachedAttention(layer, at) for layer in cache])
    return model.head(x[torch.arange(len(x), device=x.device), last])


def cache_positions(cache: Cache, positions: Tensor) -> CachePositions:
    """Return where tokens at `positions` `(B, T)` are, each of which sees all up to its own."""
    keys, device = cache[0].keys, positions.device
    hidden = torch.arange(keys.shape[2], device=device) > positions[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=keys.dtype, device=device).masked_fill(hidden, -math.inf)
    return CachePositions(torch.arange(len(positions), device=device)[:, None], positions, mask)


def update(cached: Tensor, new: Tensor, at: CachePositions) -> Tensor:
    """Write `new` `(B, nh, T, hs)` to the cache `(B, nh, S, hs)`, and return it."""
    cached[at.rows, :, at.positions] = new.transpose(1, 2).to(cached.dtype)
    return cached


def empty_cache(
    config: GPTConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device
) -> Cache:
    """Return a cache for `rows` sequences of up to `length` tokens."""
    shape = (rows, config.n_head, length, config.n_embd // config.n_head)
    return [
        LayerCache(*(torch.zeros(shape, dtype=dtype, device=device) for _ in LayerCache._fields))
        for _ in range(config.n_layer)
    ]


def cache_dtype(device_type: str, dtype: torch.dtype) -> torch.dtype:
    """Return the type of keys and values where matrix products compute in `dtype`.

    On a CPU float32 at least: torch attends from one token to a cache in bfloat16 more slowly.
    """
    return torch.promote_types(dtype, torch.float32) if device_type == "cpu" else dtype
