"""Operations that are faster than the plain ones, each beside the plain one it must agree with.

Figures are of GPT-2 124M, B=4, T=256, two cores of an AMD EPYC, with torch 2.13:
(a) Zen 5; (b) Zen 3; (c) Zen 4.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_common.config import Dtype
from gpt_common.hardware import Processor

CHUNK_ROWS = 512  # of logits at a time: 103 MB in float32 where the vocabulary is GPT-2's
SOFTMAX_ROWS = 64  # of them at a time through the softmax: 13 MB, which a cache can hold
BLOCK_ROWS = 128  # of queries at a time, at least


@dataclass(frozen=True)
class Ops:
    """Which fast operations a model uses; none of them, unless asked."""

    onednn_linear: bool = False
    block_attention: bool = False
    chunked_loss: bool = False


PLAIN = Ops()


def choose_ops(device_type: str, dtype: Dtype, processor: Processor, compiled: bool = False) -> Ops:
    """Return the operations that pay on a device, in a dtype, where the CPU is `processor`.

    On a GPU torch's own are the fast ones, and float64 is for proofs: both take the plain ones.
    torch.compile cannot lower oneDNN's product of weights that change.
    """
    if device_type != "cpu" or dtype == "float64":
        return PLAIN
    return Ops(
        # MKL keeps to AVX2 on AMD, oneDNN takes AVX-512; where there is none they are even.
        onednn_linear=dtype == "float32" and processor.amd and processor.avx512 and not compiled,
        block_attention=dtype == "bfloat16" and processor.bfloat16,
        chunked_loss=True,
    )


def cache_dtype(device_type: str, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which generation keeps keys and values, where it computes in `dtype`.

    On a CPU float32 at least. (c) attention from one token of 5 rows to 600 takes 0.7 ms a layer
    so, and 2.1 ms from bfloat16.
    """
    return torch.promote_types(dtype, torch.float32) if device_type == "cpu" else dtype


class OneDNNLinear(torch.autograd.Function):
    """`F.linear` by oneDNN, forward and backward.

    (a) 350-450 GFLOP/s, where MKL, which F.linear takes, has 190; (b) both 140.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x weight^T + bias."""
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the gradients of x, weight and, if any, bias."""
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        d_weight = onednn_product(rows.t(), x.flatten(0, -2).t())
        d_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return onednn_product(gradient, weight.t()), d_weight, d_bias


def onednn_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a b^T + bias, as `F.linear` does, by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], None)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, ops: Ops) -> Tensor:
    """Return softmax(q k^T / sqrt(hs)) v over what is not after each position: `(B, nh, T, hs)`.

    Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    if ops.block_attention:
        return block_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def block_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the same, a block of queries at a time, and keep no scores for the gradients.

    As Dao et al. 2022, arXiv:2205.14135, but for bfloat16 on a CPU, where torch's own takes longer:
    (c) 6.9 + 32 ms a layer, forward and backward, and this 4.3 + 8.7; at T=1024 67 + 128, and this
    44 + 96. In float32 torch's own is the faster one.
    """
    y: Tensor = BlockAttention.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return y.view(q.shape)


class BlockAttention(torch.autograd.Function):
    """Attention by batched products, of `(N, T, hs)`. It skips what the mask hides of all rows."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(hs)) v."""
        ctx.save_for_backward(q, k, v)
        blocks = [
            attention_weights(q[:, rows], k[:, : rows.stop]) @ v[:, : rows.stop]
            for rows in blocks_of(q.shape[1])
        ]
        return torch.cat(blocks, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of q, k and v, with the weights made anew."""
        (gradient,) = gradients
        q, k, v = ctx.saved_tensors
        dq, dk, dv = (torch.zeros_like(a) for a in (q, k, v))
        scale = 1 / math.sqrt(q.shape[2])
        for rows in blocks_of(q.shape[1]):
            seen = slice(rows.stop)
            weights = attention_weights(q[:, rows], k[:, seen])
            dv[:, seen].baddbmm_(weights.mT, gradient[:, rows])
            d_weights = gradient[:, rows] @ v[:, seen].mT
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            dq[:, rows].baddbmm_(d_scores, k[:, seen], alpha=scale)
            dk[:, seen].baddbmm_(d_scores.mT, q[:, rows], alpha=scale)
        return dq, dk, dv


def blocks_of(length: int) -> list[slice]:
    """Return the blocks of so many positions: four, or fewer of `BLOCK_ROWS`."""
    size = max(BLOCK_ROWS, -(-length // 4))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(hs)) of the last R positions, over all S: `(N, R, S)`.

    Scale and mask come with the product; the softmax computes in float32, whatever it is given.
    """
    R, S = q.shape[1], k.shape[1]
    mask = torch.full((R, S), -math.inf, dtype=q.dtype, device=q.device).triu(S - R + 1)
    return torch.baddbmm(mask, q, k.mT, alpha=1 / math.sqrt(q.shape[2])).softmax(-1)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log p(target), in nats, over the positions of `(B, T, V)` logits.

    torch's own, in float32 on a CPU, loses the many small terms beside a large one: where a model
    is sure of its targets and the loss is 0.04, 1e-4 of it (torch 2.13).
    """
    target_logits = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (logits.logsumexp(-1) - target_logits).mean()


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, ops: Ops
) -> Tensor:
    """Return `cross_entropy` of the logits x weight^T, of which `vocab_size` count.

    `x` is `(B, T, C)`, `weight` `(padded V, C)`, `targets` `(B, T)`.
    """
    if not ops.chunked_loss:
        logits = F.linear(x, weight)[..., :vocab_size]  # (B, T, V)
        return cross_entropy(logits.to(weight.dtype), targets)
    rows = x.flatten(0, -2), weight, targets.flatten()
    return ChunkedLoss.apply(*rows, vocab_size, ops, torch.is_grad_enabled())


class ChunkedLoss(torch.autograd.Function):
    """Head and loss for some rows at a time, with the gradients made while their logits are there.

    The logits of a batch, and their gradients, 206 MB each in float32, never exist whole.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        vocab_size: int,
        ops: Ops,
        differentiate: bool,
    ) -> Tensor:
        """Return the mean loss of `(N, C)` rows, and keep its gradients for `backward`."""
        product = onednn_product if ops.onednn_linear else F.linear
        dtype, losses = compute_dtype(x), []
        w, dx = weight.to(dtype), torch.empty_like(x)
        d_weight = torch.zeros_like(weight) if differentiate else None
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            x_rows = x[rows].to(dtype)
            logits = product(x_rows, w)  # (R, V)
            logits[:, vocab_size:] = -math.inf
            blocks = zip(logits.split(SOFTMAX_ROWS), targets[rows].split(SOFTMAX_ROWS), strict=True)
            losses += [row_losses_(*block, len(x), weight.dtype) for block in blocks]
            if d_weight is not None:
                dx[rows] = product(logits, w.t()).to(x.dtype)
                d_weight += product(logits.t(), x_rows.t())
        ctx.save_for_backward(dx, d_weight)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and weight."""
        dx, d_weight = ctx.saved_tensors
        return gradients[0] * dx, gradients[0] * d_weight, None, None, None, None


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which products of matrices compute: autocast's, or that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def row_losses_(logits: Tensor, targets: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return -log p(target) of each row of `(R, V)` logits, computed in `dtype`.

    In place of the logits it leaves the gradients of the mean of `count` such losses.
    """
    targets, wide = targets.unsqueeze(-1), logits.to(dtype)
    target_logits = wide.gather(-1, targets)
    top = wide.amax(-1, keepdim=True)
    total = wide.sub_(top).exp_().sum(-1, keepdim=True)
    wide.div_(total * count)
    wide.scatter_add_(-1, targets, torch.full_like(total, -1 / count))
    logits.copy_(wide)
    return (top - target_logits + total.log()).squeeze(-1)
