"""`FastGPT`: operations that are faster than the plain ones of `GPT`, and agree with them.

| replaces                      | by                      | where it is faster                 |
| ----------------------------- | ----------------------- | ---------------------------------- |
| `nn.Linear.forward`           | `onednn_linear`         | AMD CPUs with AVX-512, float32     |
| `causal_attention`            | `blockwise_attention`   | CPUs that compute in bfloat16      |
| `GPT.loss`: head, softmax     | `chunked_cross_entropy` | CPUs, CUDA; it needs less memory   |

By how much is in `docs/speed.md`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_common.config import Dtype, GPTConfig
from gpt_common.hardware import Processor
from gpt_torch.model import GPT, Attention, causal_attention
from gpt_torch.precision import compute_dtype

CPU_LOSS_ROWS = 512  # of logits at a time: 103 MB in float32 where the vocabulary is GPT-2's
CUDA_LOSS_ROWS = 4096  # 823 MB: large products, and few kernels to launch
SOFTMAX_ROWS = 64  # of a CPU's at a time through the softmax: 13 MB, which a cache can hold
BLOCK_ROWS = 128  # of queries at a time, at least


@dataclass(frozen=True)
class FastOps:
    """The fast operations of a `FastGPT`; none by default.

    The loss makes the logits of `loss_rows` rows at a time; 0 means all at once.
    """

    onednn_linear: bool = False
    blockwise_attention: bool = False
    loss_rows: int = 0


def choose_fast_ops(
    device_type: str, dtype: Dtype, processor: Processor, compiled: bool = False
) -> FastOps:
    """Return the operations that are faster on a device, in a dtype, with a CPU `processor`.

    GPUs have fast kernels for the plain operations but the loss, and float64 is for proofs.
    torch.compile cannot lower oneDNN's linear layer with weights that change.
    """
    if device_type != "cpu" or dtype == "float64":
        on_cuda = device_type == "cuda" and dtype != "float64"
        return FastOps(loss_rows=CUDA_LOSS_ROWS if on_cuda else 0)
    return FastOps(
        # On AMD, MKL uses AVX2 only and oneDNN AVX-512; without AVX-512 they are equally fast.
        onednn_linear=dtype == "float32" and processor.amd and processor.avx512 and not compiled,
        blockwise_attention=dtype == "bfloat16" and processor.bfloat16,
        loss_rows=CPU_LOSS_ROWS,
    )


class FastGPT(GPT):
    """A `GPT` with the same parameters that computes by fast operations."""

    def __init__(self, config: GPTConfig, ops: FastOps) -> None:
        super().__init__(config)
        self.ops = ops
        if ops.onednn_linear:
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    layer.forward = MethodType(onednn_linear, layer)  # type: ignore[method-assign]

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats, without the logits of a whole batch."""
        if not self.ops.loss_rows:
            return super().loss(tokens, targets)
        x, vocab_size = self.ln_f(self.hidden(tokens)), self.config.vocab_size
        return chunked_cross_entropy(x, self.wte.weight, targets, vocab_size, self.ops)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        attentions: Sequence[Attention] | None = None,
    ) -> Tensor:
        """Return the residual stream `(B, T, C)` after the last block."""
        fast = blockwise_attention if self.ops.blockwise_attention else causal_attention
        return super().hidden(tokens, positions, attentions or [fast] * len(self.h))


def create_model(config: GPTConfig, ops: FastOps | None) -> GPT:
    """Return a plain `GPT`, or a `FastGPT` where `ops` are given."""
    return GPT(config) if ops is None else FastGPT(config, ops)


def onednn_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Map `(..., in)` to `(..., out)`, as `nn.Linear` does, by oneDNN."""
    y: Tensor = OneDNNLinear.apply(x, layer.weight, layer.bias)
    return y


class OneDNNLinear(torch.autograd.Function):
    """`F.linear` by oneDNN, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x weight^T + bias."""
        ctx.save_for_backward(x, weight)
        return onednn_matmul(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the gradients of x, weight and, if any, bias."""
        (grad,) = grad_outputs
        x, weight = ctx.saved_tensors
        grad_2d = grad.flatten(0, -2)
        d_weight = onednn_matmul(grad_2d.t(), x.flatten(0, -2).t())
        d_bias = grad_2d.sum(0) if ctx.needs_input_grad[2] else None
        return onednn_matmul(grad, weight.t()), d_weight, d_bias


def onednn_matmul(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a b^T + bias, as `F.linear` does, by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], None)


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return `causal_attention`, a block of queries at a time, and keep no scores for backward.

    Dao et al. 2022, arXiv:2205.14135, as batched products: torch's own kernel is the faster one in
    float32, and the slower one in bfloat16.
    """
    y: Tensor = BlockwiseAttention.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return y.view(q.shape)


class BlockwiseAttention(torch.autograd.Function):
    """Attention of `(N, T, hs)` by batched products, without the keys that a block does not see."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(hs)) v."""
        ctx.save_for_backward(q, k, v)
        blocks = [
            attention_weights(q[:, rows], k[:, : rows.stop]) @ v[:, : rows.stop]
            for rows in query_blocks(q.shape[1])
        ]
        return torch.cat(blocks, dim=1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of q, k and v; the attention weights are recomputed."""
        (grad,) = grad_outputs
        q, k, v = ctx.saved_tensors
        dq, dk, dv = (torch.zeros_like(a) for a in (q, k, v))
        scale = 1 / math.sqrt(q.shape[2])
        for rows in query_blocks(q.shape[1]):
            seen = slice(rows.stop)
            weights = attention_weights(q[:, rows], k[:, seen])
            dv[:, seen].baddbmm_(weights.mT, grad[:, rows])
            d_weights = grad[:, rows] @ v[:, seen].mT
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            dq[:, rows].baddbmm_(d_scores, k[:, seen], alpha=scale)
            dk[:, seen].baddbmm_(d_scores.mT, q[:, rows], alpha=scale)
        return dq, dk, dv


def query_blocks(length: int) -> list[slice]:
    """Return the blocks of `length` positions: four, or fewer of `BLOCK_ROWS`."""
    size = max(BLOCK_ROWS, -(-length // 4))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(hs)) of the last R positions, over all S: `(N, R, S)`.

    Scale and mask are part of the product; the softmax computes in float32 for any input type.
    """
    R, S = q.shape[1], k.shape[1]
    mask = torch.full((R, S), -math.inf, dtype=q.dtype, device=q.device).triu(S - R + 1)
    return torch.baddbmm(mask, q, k.mT, alpha=1 / math.sqrt(q.shape[2])).softmax(-1)


def chunked_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, ops: FastOps
) -> Tensor:
    """Return `cross_entropy` of the logits x weight^T, the first `vocab_size` of each row.

    `x` is `(B, T, C)`, `weight` `(padded V, C)`, `targets` `(B, T)`.
    """
    rows = x.flatten(0, -2), weight, targets.flatten()
    loss: Tensor = ChunkedCrossEntropy.apply(*rows, vocab_size, ops, torch.is_grad_enabled())
    return loss


class ChunkedCrossEntropy(torch.autograd.Function):
    """Fused linear layer and cross-entropy, for a chunk of rows at a time.

    The gradients are computed in the forward pass from a chunk's logits, so that neither the logits
    of a batch nor their gradients, 206 MB each in float32, are ever in memory as a whole.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        vocab_size: int,
        ops: FastOps,
        differentiate: bool,
    ) -> Tensor:
        """Return the mean loss of `(N, C)` rows, and save its gradients for `backward`."""
        matmul = onednn_matmul if ops.onednn_linear else F.linear
        dtype, losses = compute_dtype(x), []
        w, dx = weight.to(dtype), torch.empty_like(x)
        d_weight = torch.zeros_like(weight) if differentiate else None
        softmax_rows = SOFTMAX_ROWS if x.device.type == "cpu" else ops.loss_rows
        for start in range(0, len(x), ops.loss_rows):
            rows = slice(start, start + ops.loss_rows)
            x_rows = x[rows].to(dtype)
            logits = matmul(x_rows, w)  # (R, V)
            logits[:, vocab_size:] = -math.inf
            blocks = zip(logits.split(softmax_rows), targets[rows].split(softmax_rows), strict=True)
            losses += [row_losses_(*block, len(x), weight.dtype) for block in blocks]
            if d_weight is not None:
                dx[rows] = matmul(logits, w.t()).to(x.dtype)
                d_weight += matmul(logits.t(), x_rows.t())
        ctx.save_for_backward(dx, d_weight)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and weight."""
        dx, d_weight = ctx.saved_tensors
        return grad_outputs[0] * dx, grad_outputs[0] * d_weight, None, None, None, None


def row_losses_(logits: Tensor, targets: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return -log p(target) of each row of `(R, V)` logits, computed in `dtype`.

    It overwrites the logits by the gradients of the mean of `count` such losses.
    """
    targets, upcast = targets.unsqueeze(-1), logits.to(dtype)
    target_logits = upcast.gather(-1, targets)
    maximum = upcast.amax(-1, keepdim=True)
    denominator = upcast.sub_(maximum).exp_().sum(-1, keepdim=True)
    upcast.div_(denominator * count)
    upcast.scatter_add_(-1, targets, torch.full_like(denominator, -1 / count))
    logits.copy_(upcast)
    return (maximum - target_logits + denominator.log()).squeeze(-1)
