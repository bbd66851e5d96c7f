"""`FastGPT`: a `GPT` with operations that are faster, or need less memory, and agree with its own.

| plain               | fast                    | used on                        | gain          |
| ------------------- | ----------------------- | ------------------------------ | ------------- |
| `nn.Linear.forward` | `onednn_linear`         | AMD CPUs with AVX-512, float32 | speed         |
| `causal_attention`  | `blockwise_attention`   | CPUs with bfloat16, bfloat16   | speed         |
| `GPT.loss`          | `chunked_cross_entropy` | CPUs, CUDA                     | speed, memory |

`docs/speed.md` has the measurements.
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

CPU_LOSS_ROWS = 512  # rows of logits in a chunk: 103 MB in float32 for GPT-2's vocabulary
CUDA_LOSS_ROWS = 4096  # 824 MB: large matrix products, and few kernel launches
SOFTMAX_ROWS = 64  # rows that go through a CPU's softmax together: 13 MB, for the CPU's cache
BLOCK_ROWS = 128  # minimum number of queries in a block of attention
FLOAT16_UNIT = 2.0**15  # of a gradient of the logits, which is -1 to 1


@dataclass(frozen=True)
class FastOps:
    """The fast operations that a `FastGPT` uses; none by default.

    `loss_rows` is the number of rows of logits in a chunk of the loss; 0 means all rows.
    """

    onednn_linear: bool = False
    blockwise_attention: bool = False
    loss_rows: int = 0


def choose_fast_ops(
    device_type: str, dtype: Dtype, processor: Processor, compiled: bool = False
) -> FastOps:
    """Return the operations that are faster on a device, in a dtype, with a CPU `processor`.

    On CUDA only the loss, as the other plain operations have fast kernels; in float64, the
    reference, none.
    torch.compile cannot compile oneDNN's linear layer with weights that change.
    """
    if dtype == "float64" or device_type not in ("cpu", "cuda"):
        return FastOps()
    if device_type == "cuda":
        return FastOps(loss_rows=CUDA_LOSS_ROWS)
    return FastOps(
        # On AMD CPUs only oneDNN uses AVX-512, not MKL; without AVX-512 they are equally fast.
        onednn_linear=dtype == "float32" and processor.amd and processor.avx512 and not compiled,
        blockwise_attention=dtype == "bfloat16" and processor.bfloat16,
        loss_rows=CPU_LOSS_ROWS,
    )


class FastGPT(GPT):
    """A `GPT` with the same parameters that computes with fast operations."""

    def __init__(self, config: GPTConfig, ops: FastOps) -> None:
        super().__init__(config)
        self.ops = ops
        if ops.onednn_linear:
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    layer.forward = MethodType(onednn_linear, layer)  # type: ignore[method-assign]

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats, without the whole batch's logits in memory."""
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
    """Return a `GPT`, or a `FastGPT` if `ops` are given."""
    return GPT(config) if ops is None else FastGPT(config, ops)


def onednn_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Map `(..., in)` to `(..., out)` as `nn.Linear` does, with oneDNN."""
    y: Tensor = OneDNNLinear.apply(x, layer.weight, layer.bias)
    return y


class OneDNNLinear(torch.autograd.Function):
    """`F.linear` with oneDNN, forward and backward."""

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
    """Return a b^T + bias as `F.linear` does, with oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], None)


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return `causal_attention`, computed by blocks of queries; backward recomputes the scores.

    Dao et al. 2022, arXiv:2205.14135, as batched matrix products: on CPUs they are slower than
    torch's own kernel in float32, but faster in bfloat16.
    """
    y: Tensor = BlockwiseAttention.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return y.view(q.shape)


class BlockwiseAttention(torch.autograd.Function):
    """Attention of `(N, T, hs)` by batched matrix products, without the keys after each block."""

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
        """Return the gradients of q, k and v from recomputed attention weights."""
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
    """Return four blocks of `length` positions, or fewer of `BLOCK_ROWS` each."""
    size = max(BLOCK_ROWS, -(-length // 4))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(hs)) of the last R of S positions: `(N, R, S)`.

    `baddbmm` fuses scale and mask with the product; the softmax computes in at least float32.
    """
    R, S = q.shape[1], k.shape[1]
    mask = torch.full((R, S), -math.inf, dtype=q.dtype, device=q.device).triu(S - R + 1)
    return torch.baddbmm(mask, q, k.mT, alpha=1 / math.sqrt(q.shape[2])).softmax(-1)


def chunked_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, ops: FastOps
) -> Tensor:
    """Return `cross_entropy` of the logits x weight^T, without those that pad the vocabulary.

    `x` is `(B, T, C)`, `weight` `(padded V, C)`, `targets` `(B, T)`.
    """
    rows = x.flatten(0, -2), weight, targets.flatten()
    loss: Tensor = ChunkedCrossEntropy.apply(*rows, vocab_size, ops, torch.is_grad_enabled())
    return loss


class ChunkedCrossEntropy(torch.autograd.Function):
    """Fused linear layer and cross-entropy, one chunk of rows at a time.

    The forward pass computes the gradients, too, from each chunk's logits. So neither the logits of
    the whole batch nor their gradients are ever in memory.
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
        dtype, losses = compute_dtype(x), []
        matmul = onednn_matmul if ops.onednn_linear else F.linear
        d_matmul = matmul if dtype != torch.float16 else upcast_matmul
        # In float16 gradients of the mean would underflow: those of the sum, times a unit, do not.
        divisor = len(x) if dtype != torch.float16 else 1 / FLOAT16_UNIT
        w, dx = weight.to(dtype), torch.empty_like(x)
        d_weight = torch.zeros_like(weight) if differentiate else None
        softmax_rows = SOFTMAX_ROWS if x.device.type == "cpu" else ops.loss_rows
        for start in range(0, len(x), ops.loss_rows):
            rows = slice(start, start + ops.loss_rows)
            x_rows = x[rows].to(dtype)
            logits = matmul(x_rows, w)  # (R, padded V)
            logits[:, vocab_size:] = -math.inf
            blocks = zip(logits.split(softmax_rows), targets[rows].split(softmax_rows), strict=True)
            losses += [row_losses_(*block, divisor, weight.dtype) for block in blocks]
            if d_weight is not None:
                dx[rows] = d_matmul(logits, w.t()).to(x.dtype)
                d_weight += d_matmul(logits.t(), x_rows.t())
        if d_weight is not None and divisor != len(x):
            torch._foreach_mul_((dx, d_weight), divisor / len(x))
        ctx.save_for_backward(dx, d_weight)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and weight."""
        dx, d_weight = ctx.saved_tensors
        return grad_outputs[0] * dx, grad_outputs[0] * d_weight, None, None, None, None


def upcast_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a b^T of two float16 matrices in float32, which does not overflow."""
    if a.is_cuda:
        return torch.mm(a, b.t(), out_dtype=torch.float32)
    with torch.autocast(a.device.type, enabled=False):  # which would cast to float16
        return a.float() @ b.t().float()  # torch has no such product on a CPU


def row_losses_(logits: Tensor, targets: Tensor, divisor: float, dtype: torch.dtype) -> Tensor:
    """Return -log p(target) of each row of `(R, V)` logits, computed in `dtype`.

    The logits are overwritten by the gradients of their sum, over `divisor`.
    """
    targets, upcast = targets.unsqueeze(-1), logits.to(dtype)
    target_logits = upcast.gather(-1, targets)
    maximum = upcast.amax(-1, keepdim=True)
    denominator = upcast.sub_(maximum).exp_().sum(-1, keepdim=True)
    upcast.div_(denominator * divisor)
    upcast.scatter_add_(-1, targets, torch.full_like(denominator, -1 / divisor))
    logits.copy_(upcast)
    return (maximum - target_logits + denominator.log()).squeeze(-1)
