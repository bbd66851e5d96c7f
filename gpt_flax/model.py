"""GPT-2 as Linen modules: pre-LayerNorm blocks, learned positions, tied head."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from optax import softmax_cross_entropy_with_integer_labels

from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig
from gpt_common.errors import InputError
from gpt_common.initialization import INITIAL_STD, residual_std

Cache = dict[str, Any]  # "h_0": {"attn": {"keys": ..., "values": ...}}, each (B, nh, S, hs)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what stands before it."""

    config: GPTConfig
    dtype: DTypeLike

    def setup(self) -> None:
        config = self.config
        self.c_attn = linear(3 * config.n_embd, INITIAL_STD, self.dtype)
        self.c_proj = linear(config.n_embd, residual_std(config), self.dtype)

    def __call__(self, x: Array, positions: Array | None = None) -> Array:
        """Map `(B, T, C)` to `(B, T, C)`; with a cache, x stands at `positions` `(B, T)`."""
        B, T, C = x.shape
        qkv = self.c_attn(x).reshape(B, T, 3, self.config.n_head, C // self.config.n_head)
        q, k, v = jnp.unstack(qkv, axis=2)  # (B, T, nh, hs): jax puts the heads after the time
        if positions is None:
            y = causal_attention(q, k, v)
        else:
            keys, values = self.keep("keys", k, positions), self.keep("values", v, positions)
            y = cached_attention(q, keys, values, positions)
        return self.c_proj(y.reshape(B, T, C))

    def keep(self, name: str, new: Array, positions: Array) -> Array:
        """Put `new` `(B, T, nh, hs)` into the cache at `positions`; return `(B, nh, S, hs)`."""
        rows = jnp.arange(len(new))[:, None]
        kept: Array = self.get_variable("cache", name).at[rows, :, positions].set(new)
        self.put_variable("cache", name, kept)
        return kept


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    config: GPTConfig
    dtype: DTypeLike

    def setup(self) -> None:
        config = self.config
        self.c_fc = linear(4 * config.n_embd, INITIAL_STD, self.dtype)
        self.c_proj = linear(config.n_embd, residual_std(config), self.dtype)

    def __call__(self, x: Array) -> Array:
        """Map `(B, T, C)` to `(B, T, C)`."""
        approximate = self.config.activation == "gelu_new"
        return self.c_proj(nn.gelu(self.c_fc(x), approximate=approximate))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream after a norm of its own."""

    config: GPTConfig
    dtype: DTypeLike

    def setup(self) -> None:
        self.ln_1 = layer_norm()
        self.attn = CausalSelfAttention(self.config, self.dtype)
        self.ln_2 = layer_norm()
        self.mlp = MLP(self.config, self.dtype)

    def __call__(self, x: Array, positions: Array | None = None) -> Array:
        """Map `(B, T, C)` to `(B, T, C)`; with a cache, x stands at `positions` `(B, T)`."""
        x = x + self.attn(self.ln_1(x), positions)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2 with its language-model head, which is the token embedding once more.

    With `dtype` bfloat16 the matrix products compute in bfloat16, over float32 weights and a
    float32 residual stream.
    """

    config: GPTConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.wte = nn.Embed(config.padded_vocab_size, config.n_embd, embedding_init=padded(config))
        self.wpe = nn.Embed(config.block_size, config.n_embd, embedding_init=normal(INITIAL_STD))
        self.h = [Block(config, self.dtype) for _ in range(config.n_layer)]
        self.ln_f = layer_norm()

    def __call__(self, tokens: Array, targets: Array | None = None) -> tuple[Array, Array | None]:
        """Return logits `(B, T, V)` and, where targets are given, the mean cross-entropy in nats.

        `tokens` and `targets` are `(B, T)` integers. Raises `InputError` for T above `block_size`.
        """
        T = tokens.shape[1]
        if T > self.config.block_size:
            raise InputError(f"expected at most {self.config.block_size} tokens, got {T}")
        x = self.wte(tokens) + self.wpe.embedding[:T]  # (B, T, C)
        for block in self.h:
            x = block(x)
        logits = self.head(self.ln_f(x))  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, cross_entropy(logits, targets)

    def decode(self, tokens: Array, positions: Array, last: Array) -> Array:
        """Return the logits `(B, V)` that follow place `last` `(B,)` of each row.

        `tokens` `(B, T)` stand at `positions` `(B, T)`. They see what the collection "cache" has up
        to these, and are kept in it.
        """
        x = self.wte(tokens) + self.wpe(positions)  # (B, T, C)
        for block in self.h:
            x = block(x, positions)
        x = x[jnp.arange(len(x)), last]  # (B, C)
        return self.head(self.ln_f(x))

    def head(self, x: Array) -> Array:
        """Return the logits `(..., V)` of the last norm's output `(..., C)`."""
        frozen = self.has_variable("params", "lm_head")  # cast once, by `freeze`
        head = self.get_variable("params", "lm_head") if frozen else self.wte.embedding
        logits = (x.astype(self.dtype) @ head.astype(self.dtype).T)[..., : self.config.vocab_size]
        return logits.astype(self.wte.embedding.dtype)  # a bfloat16 softmax would be too coarse


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Return the mean of -log p(target), in nats, over the positions of `(B, T, V)` logits."""
    return softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def causal_attention(q: Array, k: Array, v: Array) -> Array:
    """Return softmax(q k^T / sqrt(hs)) v over what is not after each position: `(B, T, nh, hs)`.

    Vaswani et al. 2017, arXiv:1706.03762, eq. 1. The softmax is in float32 at least, as in
    `jax.nn.dot_product_attention`; but that one computes it in float32 where all else is float64.
    """
    T, hs = q.shape[1], q.shape[3]
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=dtype) / math.sqrt(hs)
    scores = jnp.where(jnp.tri(T, dtype=bool), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


def cached_attention(q: Array, keys: Array, values: Array, positions: Array) -> Array:
    """Attend from `q` `(B, T, nh, hs)` to all up to its `positions` `(B, T)`: `(B, T, nh, hs)`."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bthd,bhsd->bhts", q, keys, preferred_element_type=dtype)
    seen = jnp.arange(keys.shape[2]) <= positions[:, None, :, None]
    scores = jnp.where(seen, scores / math.sqrt(q.shape[3]), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    return jnp.einsum("bhts,bhsd->bthd", weights, values)


def empty_cache(config: GPTConfig, rows: int, length: int, dtype: DTypeLike) -> Cache:
    """Return a cache for `rows` sequences of up to `length` tokens."""
    shape = (rows, config.n_head, length, config.n_embd // config.n_head)
    return {
        f"h_{n}": {"attn": {name: jnp.zeros(shape, dtype) for name in ("keys", "values")}}
        for n in range(config.n_layer)
    }


def linear(features: int, std: float, dtype: DTypeLike) -> nn.Dense:
    """Return a linear layer with a normal kernel `(in, out)` and a bias of zeros."""
    return nn.Dense(features, dtype=dtype, kernel_init=normal(std))


def layer_norm() -> nn.LayerNorm:
    """Return a norm over C; Linen's own fast variance, E[x^2] - E[x]^2, loses digits."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)


def normal(std: float) -> nn.initializers.Initializer:
    """Return an initialiser that draws from a normal distribution of mean 0."""
    return nn.initializers.normal(std)


def padded(config: GPTConfig) -> nn.initializers.Initializer:
    """Return an initialiser for the token embedding, whose padded rows are zero."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        rows = jnp.arange(shape[0])[:, None]
        return jnp.where(rows < config.vocab_size, normal(INITIAL_STD)(key, shape, dtype), 0)

    return init
