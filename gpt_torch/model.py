"""GPT-2 as torch modules: pre-LayerNorm blocks, learned positions, tied head."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig
from gpt_common.errors import InputError
from gpt_common.initialization import INITIAL_STD, residual_std

# From the queries, keys and values of a layer, each (B, nh, T, hs), to (B, nh, T, hs).
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(hs)) v, where no position attends to a later one.

    Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each position to itself and to earlier ones."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = linear(config.n_embd, 3 * config.n_embd, INITIAL_STD, config.bias)
        self.c_proj = linear(config.n_embd, config.n_embd, residual_std(config), config.bias)

    def forward(self, x: Tensor, attention: Attention = causal_attention) -> Tensor:
        """Map `(B, T, C)` to `(B, T, C)`."""
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # (B, nh, T, hs): torch wants heads before time
        y = attention(q, k, v)  # (B, nh, T, hs)
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
    """Attention, then an MLP: each normalizes its input and adds to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = layer_norm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = layer_norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, attention: Attention = causal_attention) -> Tensor:
        """Map `(B, T, C)` to `(B, T, C)`."""
        x = x + self.attn(self.ln_1(x), attention)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2 with its language-model head, whose weight is the token embedding."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = layer_norm(config)
        nn.init.normal_(self.wte.weight, std=INITIAL_STD)
        nn.init.zeros_(self.wte.weight[config.vocab_size :])  # rows that pad the vocabulary
        nn.init.normal_(self.wpe.weight, std=INITIAL_STD)

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits `(B, T, V)` and, given targets, the mean cross-entropy in nats.

        `tokens` and `targets` are `(B, T)` integers. Raises `InputError` for T above `block_size`.
        """
        logits = self.head(self.hidden(tokens))  # (B, T, V)
        return logits, None if targets is None else cross_entropy(logits, targets)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats; training calls this, `FastGPT` overrides it."""
        return cross_entropy(self.head(self.hidden(tokens)), targets)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        attentions: Sequence[Attention] | None = None,
    ) -> Tensor:
        """Return the residual stream `(B, T, C)` after the last block.

        A key-value cache sets the `positions` `(B, T)` of the tokens and each layer's attention.
        """
        T = tokens.shape[1]
        if T > self.config.block_size:
            raise InputError(f"expected at most {self.config.block_size} tokens, got {T}")
        if positions is None:
            positions = torch.arange(T, device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)  # (B, T, C)
        attentions = attentions or [causal_attention] * len(self.h)
        for block, attention in zip(self.h, attentions, strict=True):
            x = block(x, attention)
        return x

    def head(self, x: Tensor) -> Tensor:
        """Return the logits `(..., V)` of the residual stream `(..., C)`, after its last norm."""
        logits = F.linear(self.ln_f(x), self.wte.weight)[..., : self.config.vocab_size]
        return logits.to(self.wte.weight.dtype)  # for a softmax in at least float32


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log p(target), in nats, over the positions of `(B, T, V)` logits.

    `F.cross_entropy` on a CPU has errors of 1e-4 in float32 if the loss is near 0.
    """
    target_logits = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (B, T)
    return (logits.logsumexp(-1) - target_logits).mean()


def linear(in_features: int, out_features: int, std: float, bias: bool) -> nn.Linear:
    """Return a linear layer with normal weights `(out, in)` and a zero bias, if any."""
    layer = nn.Linear(in_features, out_features, bias)
    nn.init.normal_(layer.weight, std=std)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def layer_norm(config: GPTConfig) -> nn.LayerNorm:
    """Return a LayerNorm over C."""
    return nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON, bias=config.bias)
