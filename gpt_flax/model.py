"""GPT-2 as Linen modules: pre-LayerNorm blocks, learned positions, tied head."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig
from gpt_common.errors import InputError
from gpt_common.initialization import INITIAL_STD, residual_std
from gpt_flax.ops import (
    PLAIN,
    Ops,
    causal_attention,
    cross_entropy,
    flat_linear,
    gelu,
    heads_first,
    linear_cross_entropy,
    product,
    widened,
)

Cache = dict[str, Any]  # "h_0": {"attn": {"keys": ..., "values": ...}}, each (B, nh, S, hs)


class Places(NamedTuple):
    """Where tokens stand in a cache, in every layer, and what they see of it.

    `rows` `(B, 1)`, `positions` `(B, T)`, each after the one before, and `mask` `(B, 1, T, S)`:
    true where a key is seen.
    """

    rows: Array
    positions: Array
    mask: Array


class Linear(nn.Dense):
    """`nn.Dense`, by `flat_linear` where `ops` says so."""

    ops: Ops = PLAIN

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(..., in)` to `(..., out)`."""
        if not self.ops.flat_linear:
            return super().__call__(x)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        shape = (self.features,)
        bias = self.param("bias", self.bias_init, shape) if self.use_bias else None
        return flat_linear(x.astype(self.dtype), kernel, bias)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what stands before it."""

    config: GPTConfig
    dtype: DTypeLike
    ops: Ops

    def setup(self) -> None:
        config = self.config
        self.c_attn = linear(3 * config.n_embd, INITIAL_STD, config.bias, self.dtype, self.ops)
        std = residual_std(config)
        self.c_proj = linear(config.n_embd, std, config.bias, self.dtype, self.ops)

    def __call__(self, x: Array, places: Places | None = None) -> Array:
        """Map `(B, T, C)` to `(B, T, C)`; with a cache, x stands at `places` in it."""
        B, T, C = x.shape
        qkv = self.c_attn(x).reshape(B, T, 3, self.config.n_head, C // self.config.n_head)
        q, k, v = jnp.unstack(qkv, axis=2)  # (B, T, nh, hs): jax puts the heads after the time
        if places is None:
            y = causal_attention(q, k, v, self.ops)
        else:
            keys, values = self.keep("keys", k, places), self.keep("values", v, places)
            y = cached_attention(q, keys, values, places)
        return self.c_proj(y.reshape(B, T, C))

    def keep(self, name: str, new: Array, places: Places) -> Array:
        """Put `new` `(B, T, nh, hs)` into the cache at its places; return `(B, nh, S, hs)`."""
        kept = updated(self.get_variable("cache", name), new, places)
        self.put_variable("cache", name, kept)
        return kept


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    config: GPTConfig
    dtype: DTypeLike
    ops: Ops

    def setup(self) -> None:
        config = self.config
        self.c_fc = linear(4 * config.n_embd, INITIAL_STD, config.bias, self.dtype, self.ops)
        std = residual_std(config)
        self.c_proj = linear(config.n_embd, std, config.bias, self.dtype, self.ops)

    def __call__(self, x: Array) -> Array:
        """Map `(B, T, C)` to `(B, T, C)`."""
        approximate = self.config.activation == "gelu_new"
        return self.c_proj(gelu(self.c_fc(x), approximate, self.ops))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream after a norm of its own."""

    config: GPTConfig
    dtype: DTypeLike
    ops: Ops

    def setup(self) -> None:
        self.ln_1 = layer_norm(self.config)
        self.attn = CausalSelfAttention(self.config, self.dtype, self.ops)
        self.ln_2 = layer_norm(self.config)
        self.mlp = MLP(self.config, self.dtype, self.ops)

    def __call__(self, x: Array, places: Places | None = None) -> Array:
        """Map `(B, T, C)` to `(B, T, C)`; with a cache, x stands at `places` in it."""
        x = x + self.attn(self.ln_1(x), places)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2 with its language-model head, which is the token embedding once more.

    With `dtype` bfloat16 the matrix products compute in bfloat16, over float32 weights and a
    float32 residual stream.
    """

    config: GPTConfig
    dtype: DTypeLike = jnp.float32
    ops: Ops = PLAIN

    def setup(self) -> None:
        config = self.config
        self.wte = nn.Embed(config.padded_vocab_size, config.n_embd, embedding_init=padded(config))
        self.wpe = nn.Embed(config.block_size, config.n_embd, embedding_init=normal(INITIAL_STD))
        self.h = [Block(config, self.dtype, self.ops) for _ in range(config.n_layer)]
        self.ln_f = layer_norm(config)

    def __call__(self, tokens: Array, targets: Array | None = None) -> tuple[Array, Array | None]:
        """Return logits `(B, T, V)` and, where targets are given, the mean cross-entropy in nats.

        `tokens` and `targets` are `(B, T)` integers. Raises `InputError` for T above `block_size`.
        """
        logits = self.head(self.hidden(tokens))  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, cross_entropy(logits, targets)

    def loss(self, tokens: Array, targets: Array) -> Array:
        """Return the loss alone: what training needs, without the logits of a whole batch."""
        x, vocab_size = self.hidden(tokens), self.config.vocab_size
        weight = self.wte.embedding
        return linear_cross_entropy(x, weight, targets, vocab_size, self.dtype, self.ops)

    def hidden(self, tokens: Array) -> Array:
        """Return what the head sees, `(B, T, C)`."""
        T = tokens.shape[1]
        if T > self.config.block_size:
            raise InputError(f"expected at most {self.config.block_size} tokens, got {T}")
        x = self.wte(tokens) + self.wpe.embedding[:T]  # (B, T, C)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def decode(self, tokens: Array, positions: Array, last: Array) -> Array:
        """Return the logits `(B, V)` that follow place `last` `(B,)` of each row.

        `tokens` `(B, T)` stand at `positions` `(B, T)`. They see what the collection "cache" has up
        to these, and are kept in it.
        """
        x = self.wte(tokens) + self.wpe(positions)  # (B, T, C)
        places = places_in(self.variables["cache"], positions)
        for block in self.h:
            x = block(x, places)
        x = x[jnp.arange(len(x)), last]  # (B, C)
        return self.head(self.ln_f(x))

    def head(self, x: Array) -> Array:
        """Return the logits `(..., V)` of the last norm's output `(..., C)`."""
        frozen = self.has_variable("params", "lm_head")  # `freeze` cast and transposed it
        head = self.get_variable("params", "lm_head") if frozen else self.wte.embedding.T
        x, head = x.astype(self.dtype), head.astype(self.dtype)
        logits = product(x, head) if frozen and self.ops.flat_linear else x @ head
        logits = logits[..., : self.config.vocab_size]
        return logits.astype(self.wte.embedding.dtype)  # a bfloat16 softmax would be too coarse


def places_in(cache: Mapping[str, Any], positions: Array) -> Places:
    """Return the places of tokens that stand at `positions` `(B, T)` and see all up to these."""
    length = cache["h_0"]["attn"]["keys"].shape[2]
    mask = jnp.arange(length) <= positions[:, None, :, None]
    return Places(jnp.arange(len(positions))[:, None], positions, mask)


def updated(kept: Array, new: Array, places: Places) -> Array:
    """Return what is kept, `(B, nh, S, hs)`, with `new` `(B, T, nh, hs)` at its places.

    By a scatter XLA would copy a single row's cache twice, to change one token of it.
    """
    if len(new) > 1:
        return kept.at[places.rows, :, places.positions].set(new)
    start = (0, 0, places.positions[0, 0], 0)
    return jax.lax.dynamic_update_slice(kept, heads_first(new).astype(kept.dtype), start)


def cached_attention(q: Array, keys: Array, values: Array, places: Places) -> Array:
    """Attend from `q` `(B, T, nh, hs)` to what its places see: `(B, T, nh, hs)`.

    It computes in float32 at least.
    """
    keys, values = widened(keys), widened(values)  # which changes nothing where the cache is so
    scores = jnp.einsum("bthd,bhsd->bhts", widened(q), keys)
    scores = jnp.where(places.mask, scores / math.sqrt(q.shape[3]), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("bhts,bhsd->bthd", weights, values).astype(q.dtype)


def empty_cache(config: GPTConfig, rows: int, length: int, dtype: DTypeLike) -> Cache:
    """Return a cache for `rows` sequences of up to `length` tokens."""
    shape = (rows, config.n_head, length, config.n_embd // config.n_head)
    return {
        f"h_{n}": {"attn": {name: jnp.zeros(shape, dtype) for name in ("keys", "values")}}
        for n in range(config.n_layer)
    }


def linear(features: int, std: float, bias: bool, dtype: DTypeLike, ops: Ops) -> Linear:
    """Return a linear layer with a normal kernel `(in, out)` and, if any, a bias of zeros."""
    return Linear(features, use_bias=bias, dtype=dtype, kernel_init=normal(std), ops=ops)


def layer_norm(config: GPTConfig) -> nn.LayerNorm:
    """Return a norm over C; Linen's own fast variance, E[x^2] - E[x]^2, loses digits."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_bias=config.bias, use_fast_variance=False)


def normal(std: float) -> nn.initializers.Initializer:
    """Return an initialiser that draws from a normal distribution of mean 0."""
    return nn.initializers.normal(std)


def padded(config: GPTConfig) -> nn.initializers.Initializer:
    """Return an initialiser for the token embedding, whose padded rows are zero."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        rows = jnp.arange(shape[0])[:, None]
        return jnp.where(rows < config.vocab_size, normal(INITIAL_STD)(key, shape, dtype), 0)

    return init
