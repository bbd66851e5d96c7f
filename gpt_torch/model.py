"""GPT-2 as torch modules: pre-LayerNorm blocks, learned positions, tied head."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig
from gpt_common.errors import InputError
from gpt_common.initialization import INITIAL_STD, residual_std
from gpt_torch.ops import (
    PLAIN,
    Linear,
    Ops,
    causal_attention,
    cross_entropy,
    linear_cross_entropy,
)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what stands before it."""

    ops = PLAIN

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = linear(config.n_embd, 3 * config.n_embd, INITIAL_STD)
        self.c_proj = linear(config.n_embd, config.n_embd, residual_std(config))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, T, C)` to `(B, T, C)`."""
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # (B, nh, T, hs): torch puts the heads first
        y = causal_attention(q, k, v, self.ops)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.activation == "gelu_new" else "none"
        self.c_fc = linear(config.n_embd, 4 * config.n_embd, INITIAL_STD)
        self.c_proj = linear(4 * config.n_embd, config.n_embd, residual_std(config))

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

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, T, C)` to `(B, T, C)`."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2 with its language-model head, which is the token embedding once more.

    For bfloat16, call it under `torch.autocast`: the matrix products then compute in bfloat16, over
    float32 weights and a float32 residual stream.
    """

    ops = PLAIN

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
        x = self.hidden(tokens)
        logits = F.linear(x, self.wte.weight)[..., : self.config.vocab_size]  # (B, T, V)
        logits = logits.to(self.wte.weight.dtype)  # a bfloat16 softmax would be too coarse
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


def linear(in_features: int, out_features: int, std: float) -> Linear:
    """Return a linear layer with a normal kernel `(out, in)` and a bias of zeros."""
    layer = Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def layer_norm(config: GPTConfig) -> nn.LayerNorm:
    """Return a norm over C."""
    return nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON)
