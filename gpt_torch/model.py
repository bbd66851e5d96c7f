"""GPT-2 as torch modules: pre-LayerNorm blocks, learned positions, tied head."""

import torch.nn.functional as F
from torch import Tensor, nn

from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig
from gpt_common.errors import InputError
from gpt_common.initialization import INITIAL_STD, residual_std


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what stands before it."""

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
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
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

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits `(B, T, V)` and, where targets are given, the mean cross-entropy in nats.

        `tokens` and `targets` are `(B, T)` integers. Raises `InputError` for T above `block_size`.
        """
        T = tokens.shape[1]
        if T > self.config.block_size:
            raise InputError(f"expected at most {self.config.block_size} tokens, got {T}")
        x = self.wte(tokens) + self.wpe.weight[:T]  # (B, T, C)
        for block in self.h:
            x = block(x)
        x = self.ln_f(x)
        logits = F.linear(x, self.wte.weight)[..., : self.config.vocab_size]  # (B, T, V)
        logits = logits.to(self.wte.weight.dtype)  # a bfloat16 softmax would be too coarse
        if targets is None:
            return logits, None
        return logits, cross_entropy(logits, targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log p(target), in nats, over the positions of `(B, T, V)` logits.

    torch's own, in float32 on a CPU, loses the many small terms beside a large one: where a model
    is sure of its targets and the loss is 0.04, 1e-4 of it (torch 2.13).
    """
    target_logits = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (logits.logsumexp(-1) - target_logits).mean()


def linear(in_features: int, out_features: int, std: float) -> nn.Linear:
    """Return a linear layer with a normal kernel `(out, in)` and a bias of zeros."""
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def layer_norm(config: GPTConfig) -> nn.LayerNorm:
    """Return a norm over C."""
    return nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON)
