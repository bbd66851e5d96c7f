"""GPT-2 as Linen modules: pre-LayerNorm blocks, learned positions, tied head."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import normal
from jax import Array
from optax import softmax_cross_entropy_with_integer_labels

from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig
from gpt_common.errors import InputError
from gpt_common.initialization import INITIAL_STD, residual_std

# From the queries, keys and values of a layer, each (B, T, nh, hs), to (B, T, nh, hs).
Attention = Callable[[Array, Array, Array], Array]


def causal_attention(q: Array, k: Array, v: Array) -> Array:
    """Return softmax(q k^T / sqrt(hs)) v, where no position attends to a later one.

    Vaswani et al. 2017, arXiv:1706.03762, eq. 1. Not `jax.nn.dot_product_attention`: its softmax is
    in float32 even for float64 arrays.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=dtype)
    scores = scores / math.sqrt(q.shape[3])  # (B, nh, T, T)
    scores = jnp.where(jnp.tri(q.shape[1], dtype=bool), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each position to itself and to earlier ones."""

    config: GPTConfig

    def setup(self) -> None:
        config = self.config
        self.c_attn = linear(3 * config.n_embd, INITIAL_STD, config.bias)
        self.c_proj = linear(config.n_embd, residual_std(config), config.bias)

    def __call__(self, x: Array, attention: Attention = causal_attention) -> Array:
        """Map `(B, T, C)` to `(B, T, C)`."""
        B, T, C = x.shape
        qkv = self.c_attn(x).reshape(B, T, 3, self.config.n_head, C // self.config.n_head)
        q, k, v = jnp.unstack(qkv, axis=2)  # (B, T, nh, hs): jax wants time before heads
        y = attention(q, k, v)  # (B, T, nh, hs)
        return self.c_proj(y.reshape(B, T, C))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    config: GPTConfig

    def setup(self) -> None:
        config = self.config
        self.approximate = config.activation == "gelu_new"
        self.c_fc = linear(4 * config.n_embd, INITIAL_STD, config.bias)
        self.c_proj = linear(config.n_embd, residual_std(config), config.bias)

    def __call__(self, x: Array) -> Array:
        """Map `(B, T, C)` to `(B, T, C)`."""
        return self.c_proj(jax.nn.gelu(self.c_fc(x), self.approximate))


class Block(nn.Module):
    """Attention, then an MLP: each normalizes its input and adds to the residual stream."""

    config: GPTConfig

    def setup(self) -> None:
        self.ln_1 = layer_norm(self.config)
        self.attn = CausalSelfAttention(self.config)
        self.ln_2 = layer_norm(self.config)
        self.mlp = MLP(self.config)

    def __call__(self, x: Array, attention: Attention = causal_attention) -> Array:
        """Map `(B, T, C)` to `(B, T, C)`."""
        x = x + self.attn(self.ln_1(x), attention)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2 with its language-model head, whose weight is the token embedding."""

    config: GPTConfig

    def setup(self) -> None:
        config = self.config

        def wte_init(*args: Any) -> Array:  # with zeros in the rows that pad the vocabulary
            return normal(INITIAL_STD)(*args).at[config.vocab_size :].set(0)

        self.wte = nn.Embed(config.padded_vocab_size, config.n_embd, embedding_init=wte_init)
        self.wpe = nn.Embed(config.block_size, config.n_embd, embedding_init=normal(INITIAL_STD))
        self.h = [Block(config) for _ in range(config.n_layer)]
        self.ln_f = layer_norm(config)

    def __call__(self, tokens: Array, targets: Array | None = None) -> tuple[Array, Array | None]:
        """Return logits `(B, T, V)` and, given targets, the mean cross-entropy in nats.

        `tokens` and `targets` are `(B, T)` integers. Raises `InputError` for T above `block_size`.
        """
        logits = self.head(self.hidden(tokens))  # (B, T, V)
        return logits, None if targets is None else cross_entropy(logits, targets)

    def loss(self, tokens: Array, targets: Array) -> Array:
        """Return the mean cross-entropy in nats; training calls this, `FastGPT` overrides it."""
        return cross_entropy(self.head(self.hidden(tokens)), targets)

    def hidden(
        self,
        tokens: Array,
        positions: Array | None = None,
        attentions: Sequence[Attention] | None = None,
    ) -> Array:
        """Return the residual stream `(B, T, C)` after the last block.

        A key-value cache sets the `positions` `(B, T)` of the tokens and each layer's attention.
        """
        T = tokens.shape[1]
        if T > self.config.block_size:
            raise InputError(f"expected at most {self.config.block_size} tokens, got {T}")
        if positions is None:
            positions = jnp.arange(T)
        x = self.wte(tokens) + self.wpe(positions)  # (B, T, C)
        attentions = attentions or [causal_attention] * len(self.h)
        for block, attention in zip(self.h, attentions, strict=True):
            x = block(x, attention)
        return x

    def head(self, x: Array) -> Array:
        """Return the logits `(..., V)` of the residual stream `(..., C)`, after its last norm."""
        logits = self.wte.attend(self.ln_f(x))[..., : self.config.vocab_size]
        return logits.astype(self.wte.embedding.dtype)  # for a softmax in at least float32


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Return the mean of -log p(target), in nats, over the positions of `(B, T, V)` logits."""
    return softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def linear(features: int, std: float, bias: bool) -> nn.Dense:
    """Return a linear layer with normal weights `(in, out)` and a zero bias, if any."""
    return nn.Dense(features, use_bias=bias, kernel_init=normal(std))


def layer_norm(config: GPTConfig) -> nn.LayerNorm:
    """Return a LayerNorm over C. Linen's fast variance, E[x^2] - E[x]^2, is less precise."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_bias=config.bias, use_fast_variance=False)
