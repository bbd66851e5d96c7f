"""`FastGPT`: a `GPT` with operations that are faster, or need less memory, and agree with its own.

| plain                  | fast                    | used on        | gain                      |
| ---------------------- | ----------------------- | -------------- | ------------------------- |
| `nn.Dense.__call__`    | `dense_2d`              | CPUs (1), (5)  | speed; precision (5)      |
| `jax.nn.gelu` in `MLP` | `remat_gelu`            | CPUs, (3)      | memory; speed in bfloat16 |
| `causal_attention`     | `blockwise_attention`   | CPUs (1), (2)  | speed, memory             |
| `causal_attention`     | `cudnn_attention`       | GPUs (4)       | not measured yet          |
| `GPT.loss`             | `chunked_cross_entropy` | CPUs, GPUs     | memory; speed in bfloat16 |

(1) In bfloat16 only on CPUs with bfloat16 instructions, in float16 on none.
(2) In bfloat16 also on GPUs, where cuDNN cannot attend; every product is in bfloat16, as it is not
in the backward pass of the plain one. Not in float16, as it would round smaller gradients to 0.
(3) In float16 everywhere: the cube of a number above 40 overflows, and so does the square of one
above 255, in its gradient.
(4) In bfloat16 and float16, on GPUs that have bfloat16.
(5) From jax 0.11 on also on other CPUs: there XLA sums the gradient of Linen's kernel in bfloat16,
with an error of 13 % after a thousand tokens; that of `dense_2d` is summed in float32.

`docs/speed.md` has the measurements.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.linen.module import InterceptorContext
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh
from jax.typing import DTypeLike

from gpt_common.config import Dtype, GPTConfig
from gpt_common.hardware import Processor
from gpt_flax.model import GPT, MLP, Attention, causal_attention
from gpt_flax.parallel import divide_rows
from gpt_flax.precision import DTYPES, HALF

# Rows of logits in a chunk. On a CPU 103 MB in float32 for GPT-2; with fewer, XLA multiplies more
# slowly. On a GPU 0.8 GB; with fewer, the head's gradient is read and written more often.
CPU_LOSS_ROWS, GPU_LOSS_ROWS = 512, 4096
BLOCK_ROWS = 128  # minimum number of queries in a block of attention
SMALL_BATCH = 64  # maximum number of rows for which `small_batch_options` are faster
FLOAT16_UNIT = 2.0**15  # of a gradient of the logits, which is -1 to 1


@dataclass(frozen=True)
class FastOps:
    """The fast operations that a `FastGPT` uses; none by default."""

    dense_2d: bool = False
    remat_gelu: bool = False
    blockwise_attention: bool = False
    cudnn_attention: bool = False
    loss_rows: int = 0  # in a chunk of `chunked_cross_entropy`; with 0 the loss is the plain one
    memory_scheduler: bool = False  # of a training step


def choose_fast_ops(
    device_type: str, dtype: Dtype, processor: Processor, cudnn: bool = True
) -> FastOps:
    """Return the operations that are faster on a device, in a dtype, with a CPU `processor`.

    On a GPU XLA has fast kernels for the plain operations, except attention in 16 bits, which is
    cuDNN's if there is `cudnn`; the plain loss needs too much memory. None in float64, the
    reference.
    """
    if dtype == "float64":
        return FastOps()
    if device_type == "cpu":
        native = dtype not in HALF or (dtype == "bfloat16" and processor.bfloat16)
        return FastOps(
            dense_2d=native or jax.__version_info__ >= (0, 11),  # see (5)
            remat_gelu=True,
            blockwise_attention=native,
            loss_rows=CPU_LOSS_ROWS,
            memory_scheduler=True,
        )
    return FastOps(
        remat_gelu=dtype == "float16",
        cudnn_attention=dtype in HALF and cudnn,
        blockwise_attention=dtype == "bfloat16" and not cudnn,
        loss_rows=GPU_LOSS_ROWS,
    )


class FastGPT(GPT):
    """A `GPT` with the same parameters and fast operations, its matrix products in `dtype`."""

    ops: FastOps = FastOps()
    dtype: DTypeLike = jnp.float32
    mesh: Mesh | None = None  # of the devices that share a batch

    def loss(self, tokens: Array, targets: Array) -> Array:
        """Return the mean cross-entropy in nats, without the whole batch's logits in memory."""
        if not self.ops.loss_rows:
            return super().loss(tokens, targets)
        x = flatten_batch(self.ln_f(self.hidden(tokens)))
        options = self.config.vocab_size, self.dtype, self.ops.loss_rows
        loss = divide_rows(lambda *rows: chunked_cross_entropy(*rows, *options), self.mesh)
        return loss(x, self.wte.embedding, targets.ravel())

    def hidden(
        self,
        tokens: Array,
        positions: Array | None = None,
        attentions: Sequence[Attention] | None = None,
    ) -> Array:
        """Return the residual stream `(B, T, C)` after the last block."""
        fast = [fast_attention(self.ops)] * self.config.n_layer
        with nn.intercept_methods(partial(call_fast, self.ops)):
            return super().hidden(tokens, positions, attentions or fast)


def create_model(
    config: GPTConfig, ops: FastOps | None, dtype: Dtype, mesh: Mesh | None = None
) -> GPT:
    """Return a `GPT`, or a `FastGPT` if `ops` are given."""
    return GPT(config) if ops is None else FastGPT(config, ops, DTYPES[dtype], mesh)


def call_fast(
    ops: FastOps,
    method: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    context: InterceptorContext,
) -> Any:
    """Call a method of a Linen module, or the fast operation that replaces it."""
    layer = context.module
    if context.method_name == "__call__" and not layer.is_initializing():
        if ops.dense_2d and isinstance(layer, nn.Dense):
            (x,), params = args, layer.variables["params"]
            return dense_2d(x.astype(layer.dtype or x.dtype), params["kernel"], params.get("bias"))
        if ops.remat_gelu and isinstance(layer, MLP):
            (x,) = args
            return layer.c_proj(remat_gelu(layer.c_fc(x), layer.approximate))
    return method(*args, **kwargs)


def fast_attention(ops: FastOps) -> Attention:
    """Return the attention that `ops` asks for."""
    if ops.cudnn_attention:
        return cudnn_attention
    return blockwise_attention if ops.blockwise_attention else causal_attention


def train_step_options(ops: FastOps | None, version: tuple[int, ...]) -> dict[str, str]:
    """Return XLA's compiler options for a training step; `version` is jax's.

    XLA's default scheduler for CPUs starts whatever can start, so that many threads have work: the
    parts of backward that need no gradient run with forward, and stay in memory. Its memory
    scheduler needs half of that, at the same speed. These versions are known to have it.
    """
    if not (ops and ops.memory_scheduler and (0, 10) <= version[:2] <= (0, 12)):
        return {}
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def is_small_batch(device_type: str, rows: int, dtype: Dtype) -> bool:
    """Whether matrix products of `rows` rows are faster with `small_batch_options`."""
    return device_type == "cpu" and rows <= SMALL_BATCH and dtype == "float32"


def small_batch_options(version: tuple[int, ...]) -> dict[str, str]:
    """Return XLA's compiler options for matrix products of few rows; `version` is jax's.

    On a CPU jax 0.10 multiplies with YNNPACK, which packs the second matrix in every call. With
    YNNPACK for convolutions only, Eigen multiplies: faster for few rows, but slower for a
    transposed matrix, as in the head of `GPT`. Other versions may not have this option.
    """
    if version[:2] != (0, 10):
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}


@jax.custom_vjp
def matmul(a: Array, b: Array) -> Array:
    """Return a b, of `(..., M, K)` and `(..., K, N)`, in at least float32.

    On CPUs XLA is fast in bfloat16 with row-major operands and a float32 result, so the gradients
    copy their transposed operands. A single row is multiplied twice: XLA's matrix-vector product is
    slower than its product of two rows.
    """
    if a.dtype == jnp.bfloat16 and a.shape[-2] == 1:
        return matmul(jnp.concatenate([a, a], axis=-2), b)[..., :1, :]
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def _matmul_backward(residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    a, b = residuals
    grad = grad.astype(a.dtype)
    da, db = matmul(grad, transpose_contiguous(b)), matmul(transpose_contiguous(a), grad)
    return da.astype(a.dtype), db.astype(b.dtype)


matmul.defvjp(lambda a, b: (matmul(a, b), (a, b)), _matmul_backward)


@jax.custom_vjp
def transpose_contiguous(a: Array) -> Array:
    """Swap the last two axes; in bfloat16 the result is a row-major copy.

    In float32 XLA multiplies by a transposed operand as fast without the copy.
    """
    transpose = jnp.swapaxes(a, -1, -2)
    if a.dtype != jnp.bfloat16:
        return transpose
    row_major = Layout(major_to_minor=tuple(range(a.ndim)))
    return with_layout_constraint(jax.lax.optimization_barrier(transpose), row_major)


transpose_contiguous.defvjp(
    lambda a: (transpose_contiguous(a), None), lambda _, grad: (transpose_contiguous(grad),)
)


@jax.custom_vjp
def dense_2d(x: Array, kernel: Array, bias: Array | None) -> Array:
    """Return x kernel + bias, if any, `(..., out)`, in the dtype of `x`.

    B and T are one axis: XLA is slow if the kernel's gradient contracts two. The gradients of
    kernel and bias are summed in their own dtype: bfloat16 is slower, and less precise.
    """
    y = matmul(flatten_batch(x), kernel.astype(x.dtype))
    y = y if bias is None else y + bias
    return y.astype(x.dtype).reshape(*x.shape[:-1], -1)


def _dense_2d_backward(
    residuals: tuple[Array, Array, Array | None], grad: Array
) -> tuple[Array, Array, Array | None]:
    x, kernel, bias = residuals
    grad_2d = flatten_batch(grad)
    dx = matmul(grad_2d, transpose_contiguous(kernel.astype(x.dtype))).astype(x.dtype)
    d_kernel = matmul(transpose_contiguous(flatten_batch(x)), grad_2d)
    d_bias = None if bias is None else grad_2d.astype(d_kernel.dtype).sum(axis=0).astype(bias.dtype)
    return dx.reshape(x.shape), d_kernel.astype(kernel.dtype), d_bias


dense_2d.defvjp(lambda *inputs: (dense_2d(*inputs), inputs), _dense_2d_backward)


def flatten_batch(a: Array) -> Array:
    """Reshape `(..., C)` to `(N, C)`."""
    return a.reshape(-1, a.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def remat_gelu(x: Array, approximate: bool) -> Array:
    """Return `jax.nn.gelu`, computed in at least float32; backward recomputes it from `x`.

    XLA would save one more array per layer. In bfloat16 `jax.nn.gelu` rounds after each operation,
    and is slower.
    """
    return jax.nn.gelu(upcast(x), approximate).astype(x.dtype)


def _remat_gelu_backward(approximate: bool, x: Array, grad: Array) -> tuple[Array]:
    x = jax.lax.optimization_barrier(x)  # else XLA reuses forward's tanh, and so saves it
    _, vjp = jax.vjp(partial(jax.nn.gelu, approximate=approximate), upcast(x))
    (dx,) = vjp(upcast(grad))
    return (dx.astype(x.dtype),)


remat_gelu.defvjp(lambda x, approximate: (remat_gelu(x, approximate), x), _remat_gelu_backward)


def upcast(a: Array) -> Array:
    """Return `a` in at least float32."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def cudnn_attention(q: Array, k: Array, v: Array) -> Array:
    """Return `causal_attention` from cuDNN, or by blocks for head sizes that cuDNN lacks."""
    T, hs = q.shape[1], q.shape[3]
    if hs % 8 or hs > 128:
        return blockwise_attention(q, k, v)
    # cuDNN wants an even T; no query attends to a key that is added behind it.
    q, k, v = (jnp.pad(a, ((0, 0), (0, T % 2), (0, 0), (0, 0))) for a in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")[:, :T]


@jax.custom_vjp
def blockwise_attention(q: Array, k: Array, v: Array) -> Array:
    """Return `causal_attention`, computed by blocks of queries; backward recomputes the scores.

    Dao et al. 2022, arXiv:2205.14135, without the blocks that are masked as a whole. Backward goes
    by blocks of keys: XLA would save, not recompute, products that also occur in forward.
    """
    y, _ = _blockwise_attention_forward(q, k, v)
    return y


def _blockwise_attention_forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    q, k, v = (swap_time_and_heads(a) for a in (q, k, v))  # (B, nh, T, hs)
    blocks = [
        attention_block_forward(q[:, :, rows], k[:, :, : rows.stop], v[:, :, : rows.stop])
        for rows in query_blocks(q.shape[2])
    ]
    y, row_max, row_sum = (jnp.concatenate(parts, axis=2) for parts in zip(*blocks, strict=True))
    return swap_time_and_heads(y), (q, k, v, y, row_max, row_sum)


def _blockwise_attention_backward(
    residuals: tuple[Array, ...], grad: Array
) -> tuple[Array, Array, Array]:
    q, k, v, y, row_max, row_sum = residuals
    dy_scaled = swap_time_and_heads(grad) / row_sum
    delta = (dy_scaled * y).sum(axis=-1, keepdims=True)
    dq, dk, dv = jnp.zeros_like(row_sum, shape=q.shape), [], []
    for keys in query_blocks(q.shape[2]):
        rows = slice(keys.start, None)  # the queries that attend to these keys
        dq_rows, dk_block, dv_block = attention_block_backward(
            *(q[:, :, rows], k[:, :, keys], v[:, :, keys]),
            *(a[:, :, rows] for a in (row_max, dy_scaled, delta)),
        )
        dq = dq.at[:, :, rows].add(dq_rows)
        dk.append(dk_block)
        dv.append(dv_block)
    grads = dq, jnp.concatenate(dk, axis=2), jnp.concatenate(dv, axis=2)
    return tuple(swap_time_and_heads(a.astype(q.dtype)) for a in grads)  # type: ignore[return-value]


blockwise_attention.defvjp(_blockwise_attention_forward, _blockwise_attention_backward)


def swap_time_and_heads(a: Array) -> Array:
    """Transpose `(B, T, nh, hs)` to `(B, nh, T, hs)`, and back."""
    return jnp.swapaxes(a, 1, 2)


def query_blocks(length: int) -> list[slice]:
    """Return four blocks of `length` positions, or fewer of `BLOCK_ROWS` each."""
    size = max(BLOCK_ROWS, -(-length // 4))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def causal_scores(q: Array, k: Array, diagonal: int) -> Array:
    """Return q k^T / sqrt(hs), `(B, nh, R, S)`; row r attends to keys up to r + `diagonal`."""
    R, S, hs = q.shape[2], k.shape[2], q.shape[3]
    scores = matmul(q, transpose_contiguous(k)) / math.sqrt(hs)
    return jnp.where(jnp.tri(R, S, diagonal, dtype=bool), scores, -jnp.inf)


def attention_block_forward(q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Return the attention of the last R of S positions, `(B, nh, R, hs)`.

    And for backward each row's maximum score and softmax denominator, `(B, nh, R, 1)`.
    """
    scores = causal_scores(q, k, k.shape[2] - q.shape[2])
    row_max = scores.max(axis=-1, keepdims=True)
    exp_scores = jnp.exp(scores - row_max)
    row_sum = exp_scores.sum(axis=-1, keepdims=True)
    y = matmul(exp_scores.astype(v.dtype), v) / row_sum
    return y.astype(v.dtype), row_max, row_sum


def attention_block_backward(
    q: Array, k: Array, v: Array, row_max: Array, dy_scaled: Array, delta: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v for S keys and R queries; both start at one position.

    `dy_scaled` is the gradient of y over `row_sum`, `(B, nh, R, hs)`, and `delta` the row sums of
    `dy_scaled * y`, `(B, nh, R, 1)`.
    """
    scores = causal_scores(q, k, 0)
    exp_scores = jnp.exp(scores - row_max)
    dy_scaled = dy_scaled.astype(q.dtype)
    dv = matmul(transpose_contiguous(exp_scores.astype(q.dtype)), dy_scaled)
    d_weights = matmul(dy_scaled, transpose_contiguous(v))
    d_scores = exp_scores * (d_weights - delta) / math.sqrt(q.shape[3])
    d_scores = d_scores.astype(q.dtype)
    return matmul(d_scores, k), matmul(transpose_contiguous(d_scores), q), dv


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def chunked_cross_entropy(
    x: Array, weight: Array, targets: Array, vocab_size: int, dtype: DTypeLike, loss_rows: int
) -> Array:
    """Return `cross_entropy` of the logits x weight^T, without those that pad the vocabulary.

    `x` is `(N, C)`, `weight` `(padded V, C)`, `targets` `(N,)`; the product is in `dtype`. Fused
    linear layer and cross-entropy, a chunk of `loss_rows` at a time. The forward pass computes the
    gradients, too, from each chunk's logits. So neither the logits of the whole batch nor their
    gradients are ever in memory.
    """
    loss, _ = _chunked_cross_entropy_forward(x, weight, targets, vocab_size, dtype, loss_rows)
    return loss


def _chunked_cross_entropy_forward(
    x: Array, weight: Array, targets: Array, vocab_size: int, dtype: DTypeLike, loss_rows: int
) -> tuple[Array, tuple[Array, Array]]:
    # A `scan`: of an unrolled loop XLA would start all chunks before it finishes the first.
    # In float16 gradients of the mean would underflow: those of the sum, times a unit, do not.
    x, w = x.astype(dtype), weight.astype(dtype)
    count, divisor = len(x), 1 / FLOAT16_UNIT if dtype == jnp.float16 else len(x)
    w_transpose, sum_dtype = transpose_contiguous(w), jnp.promote_types(weight.dtype, jnp.float32)

    def add_chunk(
        sums: tuple[Array, Array], rows: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        (loss, d_weight), (x_rows, targets) = sums, rows
        logits = matmul(x_rows, w_transpose)  # (R, padded V)
        logits = jnp.where(jnp.arange(len(w)) < vocab_size, logits, -jnp.inf)
        losses, d_logits = row_losses(logits, targets)
        d_logits = (d_logits / divisor).astype(dtype)
        d_weight += matmul(transpose_contiguous(d_logits), x_rows)
        return (loss + losses.sum(), d_weight), matmul(d_logits, w).astype(weight.dtype)

    sums, dx = (jnp.zeros((), sum_dtype), jnp.zeros(weight.shape, sum_dtype)), []
    whole = count - count % loss_rows
    if whole:
        rows = x[:whole].reshape(-1, loss_rows, x.shape[1])
        chunks = rows, targets[:whole].reshape(-1, loss_rows)
        sums, dx_chunks = jax.lax.scan(add_chunk, sums, chunks)
        dx.append(dx_chunks.reshape(whole, -1))
    if whole < count:
        sums, dx_rest = add_chunk(sums, (x[whole:], targets[whole:]))
        dx.append(dx_rest)
    loss, d_weight = sums
    gradients = jnp.concatenate(dx), d_weight.astype(weight.dtype)
    if divisor != count:
        gradients = optax.tree.scale(divisor / count, gradients)
    return loss / count, gradients


chunked_cross_entropy.defvjp(
    _chunked_cross_entropy_forward,
    lambda vocab_size, dtype, loss_rows, grads, grad: (grad * grads[0], grad * grads[1], None),
)


def row_losses(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return -log p(target) of each row of `(R, V)` logits, and its gradients."""
    target_logits = jnp.take_along_axis(logits, targets[:, None], axis=-1)
    maximum = logits.max(axis=-1, keepdims=True)
    exp_logits = jnp.exp(logits - maximum)
    denominator = exp_logits.sum(axis=-1, keepdims=True)
    losses = maximum - target_logits + jnp.log(denominator)
    return losses[:, 0], exp_logits / denominator - jax.nn.one_hot(targets, logits.shape[1])
