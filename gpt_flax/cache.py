"""The key-value cache: keys and values of earlier tokens, and the attention to them."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gpt_common.config import GPTConfig
from gpt_flax.model import GPT


class LayerCache(NamedTuple):
    """Keys and values of one layer, for up to S tokens: each `(B, nh, S, hs)`."""

    keys: Array
    values: Array


Cache = list[LayerCache]


class CachePositions(NamedTuple):
    """Where new tokens are in the cache, and which keys they attend to; the same in all layers.

    `rows` is `(B, 1)`, `positions` `(B, T)`, consecutive, and `mask` `(B, 1, T, S)`, true for the
    keys that are attended to.
    """

    rows: Array
    positions: Array
    mask: Array


class CachedAttention:
    """The attention of one layer to its cache, which it replaces with the updated one."""

    def __init__(self, cache: LayerCache, at: CachePositions) -> None:
        self.cache, self.at = cache, at

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        """Add `k` and `v` `(B, T, nh, hs)` to the cache, and attend to it.

        Matrix products are of the cache's dtype, and their sums of at least float32.
        """
        keys = update_cache(self.cache.keys, k, self.at)
        values = update_cache(self.cache.values, v, self.at)
        self.cache = LayerCache(keys, values)
        einsum = partial(
            jnp.einsum, preferred_element_type=jnp.promote_types(keys.dtype, jnp.float32)
        )
        scores = einsum("bthd,bhsd->bhts", q.astype(keys.dtype), keys)
        scores = jnp.where(self.at.mask, scores / math.sqrt(q.shape[3]), -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        return einsum("bhts,bhsd->bthd", weights, values).astype(q.dtype)


def forward_cached(
    model: GPT, tokens: Array, positions: Array, last: Array, cache: Cache
) -> tuple[Array, Cache]:
    """Return the logits `(B, V)` that follow the token at index `last` `(B,)` of each row.

    `tokens` and their `positions` are `(B, T)`. Their keys and values are in the returned cache;
    each token attends to it up to its own position. Call it through `model.apply`.
    """
    at = cache_positions(cache, positions)
    attentions = [CachedAttention(layer, at) for layer in cache]
    x = model.hidden(tokens, positions, attentions)
    return model.head(x[jnp.arange(len(x)), last]), [layer.cache for layer in attentions]


def cache_positions(cache: Cache, positions: Array) -> CachePositions:
    """Return the cache positions of tokens at `positions` `(B, T)`, with a causal mask."""
    mask = jnp.arange(cache[0].keys.shape[2]) <= positions[:, None, :, None]
    return CachePositions(jnp.arange(len(positions))[:, None], positions, mask)


def update_cache(cached: Array, new: Array, at: CachePositions) -> Array:
    """Return the cache `(B, nh, S, hs)` with `new` `(B, T, nh, hs)` in it.

    For a single row, XLA would copy the cache twice to scatter one token into it.
    """
    if len(new) > 1:
        return cached.at[at.rows, :, at.positions].set(new)
    start = (0, 0, at.positions[0, 0], 0)
    return jax.lax.dynamic_update_slice(cached, new.swapaxes(1, 2).astype(cached.dtype), start)


def empty_cache(config: GPTConfig, rows: int, length: int, dtype: DTypeLike) -> Cache:
    """Return a cache of zeros for `rows` sequences of up to `length` tokens."""
    shape = (rows, config.n_head, length, config.n_embd // config.n_head)
    return [
        LayerCache(*(jnp.zeros(shape, dtype) for _ in LayerCache._fields))
        for _ in range(config.n_layer)
    ]


def cache_dtype(device_type: str, dtype: DTypeLike) -> DTypeLike:
    """Return the dtype of the cache of a model that computes in `dtype`.

    On a CPU at least float32: XLA would cast a bfloat16 cache to float32 in each step.
    """
    return jnp.promote_types(dtype, jnp.float32) if device_type == "cpu" else dtype
