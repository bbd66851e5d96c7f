"""GPT-2 as torch modules: pre-LayerNorm blocks, learned positions, tied head."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig
from gpt_common.errors import InputError
from gpt_common.initialization import INITIAL_STD, residual_std
from gpt_torch.ops import (
    PLAIN,
    OneDNNLinear,
    Ops,
    causal_attention,
    cross_entropy,
    linear_cross_entropy,
)


class LayerCache(NamedTuple):
    """Keys and values of the tokens so far, in one layer: each `(B, nh, S, hs)`."""

    keys: Tensor
    values: Tensor


Cache = list[LayerCache]


class Places(NamedTuple):
    """Where tokens stand in a cache, in every layer, and what they see of it.

    `rows` `(B, 1)`, `positions` `(B, T)`, and `mask` `(B, 1, T, S)`, which is added to the scores.
    """

    rows: Tensor
    positions: Tensor
    mask: Tensor


class Linear(nn.Linear):
    """`nn.Linear`, by oneDNN where `ops` says so."""

    ops = PLAIN

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., in)` to `(..., out)`."""
        if self.ops.onednn_linear:
            return OneDNNLinear.apply(x, self.weight, self.bias)
        return super().forward(x)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what stands before it."""

    ops = PLAIN

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = linear(config.n_embd, 3 * config.n_embd, INITIAL_STD, config.bias)
        self.c_proj = linear(config.n_embd, config.n_embd, residual_std(config), config.bias)

    def forward(
        self, x: Tensor, places: Places | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """Map `(B, T, C)` to `(B, T, C)`; with a cache, x stands at `places` in it."""
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # (B, nh, T, hs): torch puts the heads first
        if places is None or cache is None:
            y = causal_attention(q, k, v, self.ops)
        else:
            y = cached_attention(q, k, v, places, cache)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.activation == "gelu_new" else "none"
        self.c_fc = linear(config.n_embd, 4 * config.n_embd, INITIAL_STD, config.bias)
        self.c_proj = linear(4 * config.n_embd, config.n_embd, residual_std(config), config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, T, C)` to `(B, T, C)`."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream after a norm of its own."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = layer_norm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = layer_norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, places: Places | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """Map `(B, T, C)` to `(B, T, C)`; with a cache, x stands at `places` in it."""
        x = x + self.attn(self.ln_1(x), places, cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2 with its language-model head, which is the token embedding once more.

    For bfloat16, call it under `torch.autocast`: the matrix products then compute in bfloat16, over
    float32 weights and a float32 residual stream.
    """

    ops = PLAIN
    static_cache = False  # whether `decode` wants a cache of one shape at every step

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = layer_norm(config)
        nn.init.normal_(self.wte.weight, std=INITIAL_STD)
        nn.init.zeros_(self.wte.weight[config.vocab_size :])  # the padded rows
        nn.init.normal_(self.wpe.weight, std=INITIAL_STD)

    def use(self, ops: Ops) -> None:
        """Compute with these operations from now on."""
        for module in self.modules():
            if isinstance(module, Linear | CausalSelfAttention | GPT):
                module.ops = ops

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile `forward`, as every module's `compile` does, and `loss`."""
        super().compile(*args, **kwargs)
        self.loss = torch.compile(self.loss, *args, **kwargs)  # type: ignore[method-assign]

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits `(B, T, V)` and, where targets are given, the mean cross-entropy in nats.

        `tokens` and `targets` are `(B, T)` integers. Raises `InputError` for T above `block_size`.
        """
        logits = self.head(self.hidden(tokens))  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, cross_entropy(logits, targets)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the loss alone: what training needs, without the logits of a whole batch."""
        x = self.hidden(tokens)
        vocab_size = self.config.vocab_size
        return linear_cross_entropy(x, self.wte.weight, targets, vocab_size, self.ops)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return what the head sees, `(B, T, C)`."""
        T = tokens.shape[1]
        if T > self.config.block_size:
            raise InputError(f"expected at most {self.config.block_size} tokens, got {T}")
        x = self.wte(tokens) + self.wpe.weight[:T]  # (B, T, C)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def decode(self, tokens: Tensor, positions: Tensor, last: Tensor, cache: Cache) -> Tensor:
        """Return the logits `(B, V)` that follow place `last` `(B,)` of each row.

        `tokens` `(B, T)` stand at `positions` `(B, T)`. They see what the cache has up to these,
        and are kept in it.
        """
        x = self.wte(tokens) + self.wpe(positions)  # (B, T, C)
        places = places_in(cache, positions)
        for block, layer in zip(self.h, cache, strict=True):
            x = block(x, places, layer)
        x = x[torch.arange(len(x), device=x.device), last]  # (B, C)
        return self.head(self.ln_f(x))

    def head(self, x: Tensor) -> Tensor:
        """Return the logits `(..., V)` of the last norm's output `(..., C)`."""
        logits = F.linear(x, self.wte.weight)[..., : self.config.vocab_size]
        return logits.to(self.wte.weight.dtype)  # a bfloat16 softmax would be too coarse


def places_in(cache: Cache, positions: Tensor) -> Places:
    """Return the places of tokens that stand at `positions` `(B, T)` and see all up to these."""
    keys, device = cache[0].keys, positions.device
    hidden = torch.arange(keys.shape[2], device=device) > positions[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=keys.dtype, device=device).masked_fill(hidden, -math.inf)
    return Places(torch.arange(len(positions), device=device)[:, None], positions, mask)


def cached_attention(q: Tensor, k: Tensor, v: Tensor, places: Places, cache: LayerCache) -> Tensor:
    """Keep `k` and `v` at their places, and attend to what these see: `(B, nh, T, hs)`.

    It computes in the cache's type.
    """
    keys, values = cache
    keys[places.rows, :, places.positions] = k.transpose(1, 2).to(keys.dtype)
    values[places.rows, :, places.positions] = v.transpose(1, 2).to(values.dtype)
    with torch.autocast(q.device.type, enabled=False):  # which would compute in bfloat16
        y = F.scaled_dot_product_attention(q.to(keys.dtype), keys, values, attn_mask=places.mask)
    return y.to(q.dtype)


def empty_cache(
    config: GPTConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device
) -> Cache:
    """Return a cache for `rows` sequences of up to `length` tokens."""
    shape = (rows, config.n_head, length, config.n_embd // config.n_head)
    return [
        LayerCache(*(torch.zeros(shape, dtype=dtype, device=device) for _ in LayerCache._fields))
        for _ in range(config.n_layer)
    ]


def linear(in_features: int, out_features: int, std: float, bias: bool) -> Linear:
    """Return a linear layer with a normal kernel `(out, in)` and, if any, a bias of zeros."""
    layer = Linear(in_features, out_features, bias)
    nn.init.normal_(layer.weight, std=std)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def layer_norm(config: GPTConfig) -> nn.LayerNorm:
    """Return a norm over C."""
    return nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON, bias=config.bias)
