"""Operations that are faster than the plain ones, each beside the plain one it must agree with.

Figures are of GPT-2 124M, B=4, T=256, two cores of an AMD EPYC, with jax 0.10.2:
(a) Zen 5; (b) Zen 3; (c) Zen 4.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from optax import softmax_cross_entropy_with_integer_labels

from gpt_common.config import Dtype
from gpt_common.hardware import Processor

# Rows of logits at a time: 103 MB in float32 where the vocabulary is GPT-2's. With half of them XLA
# multiplies so slowly that a step takes a fifth longer, and it needs no less memory (b).
CHUNK_ROWS = 512
BLOCK_ROWS = 128  # of queries at a time, at least
FEW_ROWS = 64  # at most: of generation with 128 rows `few_rows_options` make a step a fifth longer


@dataclass(frozen=True)
class Ops:
    """Which fast operations a model uses; none of them, unless asked."""

    flat_linear: bool = False
    compact_gelu: bool = False
    block_attention: bool = False
    cudnn_attention: bool = False
    chunked_loss: bool = False
    depth_first: bool = False  # the order of a training step's operations


PLAIN = Ops()


def choose_ops(device_type: str, dtype: Dtype, processor: Processor) -> Ops:
    """Return the operations that pay on a device, in a dtype, where the CPU is `processor`.

    On a GPU XLA's own are the fast ones, but for cuDNN's attention, which is for bfloat16. float64
    is for proofs: it takes the plain ones.
    """
    if dtype == "float64":
        return PLAIN
    if device_type == "cpu":
        native = dtype != "bfloat16" or processor.bfloat16
        return Ops(
            flat_linear=native,
            compact_gelu=True,
            block_attention=native,
            chunked_loss=True,
            depth_first=True,
        )
    return Ops(cudnn_attention=device_type == "gpu" and dtype == "bfloat16")


def cache_dtype(device_type: str, dtype: DTypeLike) -> DTypeLike:
    """Return the type in which generation keeps keys and values, where it computes in `dtype`.

    On a CPU float32 at least. (c) attention from one token of 5 rows to 640 takes 0.7 ms a layer
    so, and 6.3 ms from bfloat16, which XLA widens at each step.
    """
    return jnp.promote_types(dtype, jnp.float32) if device_type == "cpu" else dtype


def has_few_rows(device_type: str, rows: int, dtype: DTypeLike) -> bool:
    """Whether matrix products of so many rows are faster by `few_rows_options`."""
    return device_type == "cpu" and rows <= FEW_ROWS and dtype == jnp.float32


def few_rows_options(version: tuple[int, ...]) -> dict[str, str]:
    """Return the options by which XLA should compile products of few rows; `version` is jax's.

    On a CPU jax 0.10 multiplies by YNNPACK, which lays the second matrix out anew at each call. (b)
    5 rows of c_fc take 0.8 ms, and 0.55 ms by Eigen, which multiplies where YNNPACK is left nothing
    but convolutions; but a transposed matrix, as a head is that was not frozen, takes 3.5 ms there.
    Other versions may know no such option.
    """
    if version[:2] != (0, 10):
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}


def depth_first_options(version: tuple[int, ...]) -> dict[str, str]:
    """Return the options by which XLA should compile a training step; `version` is jax's.

    On a CPU it begins whatever could begin, to have work for many threads; so most of a layer's
    backward pass that needs no gradient is done with the forward one, and kept. (b) at T=1024 a
    layer keeps 0.6 GB so, and 0.3 GB in depth-first order; with all layers a step is as fast.
    Only these versions are known to know the option.
    """
    if not (0, 10) <= version[:2] <= (0, 12):
        return {}
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


@jax.custom_vjp
def product(a: Array, b: Array) -> Array:
    """Return a b, of `(..., M, K)` and `(..., K, N)`, in float32 at least.

    (a) in bfloat16 820-860 GFLOP/s on row-major operands with a float32 result. A bfloat16 result,
    or a transposed operand, falls to 300-420: so its gradients lay out what they transpose. One row
    is multiplied twice, side by side: (c) an MLP takes 0.7 ms so, and 1.7 ms as XLA's
    product of a vector.
    """
    if a.dtype == jnp.bfloat16 and a.shape[-2] == 1:
        return product(jnp.concatenate([a, a], axis=-2), b)[..., :1, :]
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def _product_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(a, b), (a, b)


def _product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    a, b = saved
    gradient = gradient.astype(a.dtype)
    da, db = product(gradient, transposed(b)), product(transposed(a), gradient)
    return da.astype(a.dtype), db.astype(b.dtype)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def transposed(a: Array) -> Array:
    """Return the transpose of the last two axes, in bfloat16 laid out anew, row after row.

    In float32 XLA's products take a transposed operand as it is, as fast.
    """
    turned = jnp.swapaxes(a, -1, -2)
    if a.dtype != jnp.bfloat16:
        return turned
    rows = Layout(major_to_minor=tuple(range(a.ndim)))
    return with_layout_constraint(jax.lax.optimization_barrier(turned), rows)


transposed.defvjp(lambda a: (transposed(a), None), lambda _, gradient: (transposed(gradient),))


@jax.custom_vjp
def flat_linear(x: Array, kernel: Array, bias: Array | None) -> Array:
    """Return x kernel + bias, if any, `(..., out)`, computed in the type of `x`.

    As one matrix of rows: XLA contracts the two axes B and T of the kernel's gradient slowly. (b)
    in float32 300 ms a layer, forward and backward, where it had 375. The gradients of kernel and
    bias are summed in their own type: by way of bfloat16 they take longer, and lose digits.
    """
    y = product(flat(x), kernel.astype(x.dtype))
    y = y if bias is None else y + bias
    return y.astype(x.dtype).reshape(*x.shape[:-1], -1)


def _flat_linear_forward(
    x: Array, kernel: Array, bias: Array | None
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return flat_linear(x, kernel, bias), (x, kernel, bias)


def _flat_linear_backward(
    saved: tuple[Array, Array, Array | None], gradient: Array
) -> tuple[Array, Array, Array | None]:
    x, kernel, bias = saved
    rows = flat(gradient)
    dx = product(rows, transposed(kernel.astype(x.dtype))).astype(x.dtype)
    d_kernel = product(transposed(flat(x)), rows)
    d_bias = None if bias is None else rows.astype(d_kernel.dtype).sum(axis=0).astype(bias.dtype)
    return dx.reshape(x.shape), d_kernel.astype(kernel.dtype), d_bias


flat_linear.defvjp(_flat_linear_forward, _flat_linear_backward)


def flat(a: Array) -> Array:
    """Return `(..., C)` as one matrix `(N, C)` of rows."""
    return a.reshape(-1, a.shape[-1])


def gelu(x: Array, approximate: bool, ops: Ops) -> Array:
    """Return the GELU of `x`, or its approximation by tanh, which is GPT-2's.

    Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """
    return compact_gelu(x, approximate) if ops.compact_gelu else jax.nn.gelu(x, approximate)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def compact_gelu(x: Array, approximate: bool) -> Array:
    """Return the same, computed in float32 at least, and keep nothing but `x` for the gradient.

    Left to itself XLA keeps one array more, 13 MB a layer in float32. (c) in bfloat16 3.5 ms a
    layer, forward and backward, where jax.nn.gelu rounds after each operation and takes 12.
    """
    return jax.nn.gelu(widened(x), approximate).astype(x.dtype)


def _compact_gelu_backward(approximate: bool, x: Array, gradient: Array) -> tuple[Array]:
    x = jax.lax.optimization_barrier(x)  # else XLA finds the forward pass's tanh, and keeps it
    _, pull_back = jax.vjp(partial(jax.nn.gelu, approximate=approximate), widened(x))
    (dx,) = pull_back(widened(gradient))
    return (dx.astype(x.dtype),)


compact_gelu.defvjp(
    lambda x, approximate: (compact_gelu(x, approximate), x), _compact_gelu_backward
)


def widened(a: Array) -> Array:
    """Return `a` in float32 at least."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def causal_attention(q: Array, k: Array, v: Array, ops: Ops) -> Array:
    """Return softmax(q k^T / sqrt(hs)) v over what is not after each position: `(B, T, nh, hs)`.

    Vaswani et al. 2017, arXiv:1706.03762, eq. 1. The softmax is in float32 at least, as in
    `jax.nn.dot_product_attention`; but that one computes it in float32 where all else is float64.
    """
    T, hs = q.shape[1], q.shape[3]
    if ops.cudnn_attention and T % 2 == 0 and hs % 8 == 0 and hs <= 128:  # what cuDNN can do
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    if ops.block_attention:
        return block_attention(q, k, v)
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=dtype) / math.sqrt(hs)
    scores = jnp.where(jnp.tri(T, dtype=bool), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


@jax.custom_vjp
def block_attention(q: Array, k: Array, v: Array) -> Array:
    """Return the same, a block of queries at a time, and keep no scores for the gradients.

    As Dao et al. 2022, arXiv:2205.14135. It skips the blocks that the mask hides whole. (b) in
    float32 35 ms a layer, forward and backward, where the plain one has 57; scores that are kept
    would be 200 MB a layer at T=1024. The gradients make them anew, a block of keys at a time:
    products that are the same as those of the forward pass, XLA would keep and not repeat.
    """
    y, _ = _block_attention_forward(q, k, v)
    return y


def _block_attention_forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    q, k, v = heads_first(q), heads_first(k), heads_first(v)
    blocks = [
        last_rows_attention(q[:, :, rows], k[:, :, : rows.stop], v[:, :, : rows.stop])
        for rows in blocks_of(q.shape[2])
    ]
    y, top, total = (jnp.concatenate(parts, axis=2) for parts in zip(*blocks, strict=True))
    return heads_first(y), (q, k, v, y, top, total)


def _block_attention_backward(
    saved: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, Array]:
    q, k, v, y, top, total = saved
    scaled = heads_first(gradient) / total
    shared = (scaled * y).sum(axis=-1, keepdims=True)
    dq, dk, dv = jnp.zeros_like(total, shape=q.shape), [], []
    for keys in blocks_of(q.shape[2]):
        rows = slice(keys.start, None)  # the queries that see them
        d_rows, d_keys, d_values = first_keys_gradients(
            *(q[:, :, rows], k[:, :, keys], v[:, :, keys]),
            *(a[:, :, rows] for a in (top, scaled, shared)),
        )
        dq = dq.at[:, :, rows].add(d_rows)
        dk.append(d_keys)
        dv.append(d_values)
    gradients = dq, jnp.concatenate(dk, axis=2), jnp.concatenate(dv, axis=2)
    return tuple(heads_first(a.astype(q.dtype)) for a in gradients)  # type: ignore[return-value]


block_attention.defvjp(_block_attention_forward, _block_attention_backward)


def heads_first(a: Array) -> Array:
    """Return `(B, T, nh, hs)` as `(B, nh, T, hs)`, or the other way round."""
    return jnp.swapaxes(a, 1, 2)


def blocks_of(length: int) -> list[slice]:
    """Return the blocks of so many positions: four, or fewer of `BLOCK_ROWS`."""
    size = max(BLOCK_ROWS, -(-length // 4))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def causal_scores(q: Array, k: Array, diagonal: int) -> Array:
    """Return q k^T / sqrt(hs), `(B, nh, R, S)`, where row r may see keys up to r + `diagonal`."""
    R, S, hs = q.shape[2], k.shape[2], q.shape[3]
    scores = product(q, transposed(k)) / math.sqrt(hs)
    return jnp.where(jnp.tri(R, S, diagonal, dtype=bool), scores, -jnp.inf)


def last_rows_attention(q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Return attention of the queries of the last R positions to all S: `(B, nh, R, hs)`.

    And of each row's softmax the largest score, and the sum of the terms: `(B, nh, R, 1)`.
    """
    scores = causal_scores(q, k, k.shape[2] - q.shape[2])
    top = scores.max(axis=-1, keepdims=True)
    terms = jnp.exp(scores - top)
    total = terms.sum(axis=-1, keepdims=True)
    y = product(terms.astype(v.dtype), v) / total
    return y.astype(v.dtype), top, total


def first_keys_gradients(
    q: Array, k: Array, v: Array, top: Array, scaled: Array, shared: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients for R queries, of which the first stand where the S keys do.

    Of attention softmax(s) v = terms v / total. `scaled` is its gradient over `total`, and `shared`
    what all scores of a row have in common, the sum of `scaled` times attention.
    """
    scores = causal_scores(q, k, 0)
    terms = jnp.exp(scores - top)
    scaled = scaled.astype(q.dtype)
    dv = product(transposed(terms.astype(q.dtype)), scaled)
    d_scores = terms * (product(scaled, transposed(v)) - shared) / math.sqrt(q.shape[3])
    d_scores = d_scores.astype(q.dtype)
    return product(d_scores, k), product(transposed(d_scores), q), dv


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Return the mean of -log p(target), in nats, over the positions of `(B, T, V)` logits."""
    return softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def linear_cross_entropy(
    x: Array, weight: Array, targets: Array, vocab_size: int, dtype: DTypeLike, ops: Ops
) -> Array:
    """Return `cross_entropy` of the logits x weight^T, of which `vocab_size` count.

    `x` is `(B, T, C)`, `weight` `(padded V, C)`, `targets` `(B, T)`; the product is in `dtype`.
    """
    if ops.chunked_loss:
        return chunked_loss(flat(x), weight, targets.ravel(), vocab_size, dtype)
    logits = (x.astype(dtype) @ weight.astype(dtype).T)[..., :vocab_size]  # (B, T, V)
    return cross_entropy(logits.astype(weight.dtype), targets)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def chunked_loss(
    x: Array, weight: Array, targets: Array, vocab_size: int, dtype: DTypeLike
) -> Array:
    """Return the mean loss of `(N, C)` rows, some at a time.

    The gradients are made while the logits are there, so that neither the logits of a batch nor
    their gradients, 206 MB each, exist whole. It takes as long as the plain one.
    """
    loss, _ = chunked_loss_and_gradients(x, weight, targets, vocab_size, dtype)
    return loss


def chunked_loss_and_gradients(
    x: Array, weight: Array, targets: Array, vocab_size: int, dtype: DTypeLike
) -> tuple[Array, tuple[Array, Array]]:
    """Return the loss, and its gradients for x and weight.

    The loop is XLA's, which would begin all chunks of an unrolled one before it ends the first.
    """
    count, x, w = len(x), x.astype(dtype), weight.astype(dtype)
    w_turned, wide = transposed(w), jnp.promote_types(weight.dtype, jnp.float32)

    def add_chunk(
        totals: tuple[Array, Array], rows: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        (loss, d_weight), (x_rows, targets) = totals, rows
        logits = product(x_rows, w_turned)  # (R, V)
        logits = jnp.where(jnp.arange(len(w)) < vocab_size, logits, -jnp.inf)
        losses, d_logits = row_losses(logits, targets)
        d_logits = (d_logits / count).astype(dtype)
        d_weight += product(transposed(d_logits), x_rows)
        return (loss + losses.sum(), d_weight), product(d_logits, w).astype(weight.dtype)

    totals, dx = (jnp.zeros((), wide), jnp.zeros(weight.shape, wide)), []
    whole = count - count % CHUNK_ROWS
    if whole:
        rows = x[:whole].reshape(-1, CHUNK_ROWS, x.shape[1])
        chunks = rows, targets[:whole].reshape(-1, CHUNK_ROWS)
        totals, of_chunks = jax.lax.scan(add_chunk, totals, chunks)
        dx.append(of_chunks.reshape(whole, -1))
    if whole < count:
        totals, of_rest = add_chunk(totals, (x[whole:], targets[whole:]))
        dx.append(of_rest)
    loss, d_weight = totals
    return loss / count, (jnp.concatenate(dx), d_weight.astype(weight.dtype))


def _chunked_loss_backward(
    vocab_size: int, dtype: DTypeLike, gradients: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, None]:
    dx, d_weight = gradients
    return gradient * dx, gradient * d_weight, None


chunked_loss.defvjp(chunked_loss_and_gradients, _chunked_loss_backward)


def row_losses(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return -log p(target) of each row of `(R, V)` logits, and the gradients of each."""
    target_logits = jnp.take_along_axis(logits, targets[:, None], axis=-1)
    top = logits.max(axis=-1, keepdims=True)
    terms = jnp.exp(logits - top)
    total = terms.sum(axis=-1, keepdims=True)
    losses = top - target_logits + jnp.log(total)
    return losses[:, 0], terms / total - jax.nn.one_hot(targets, logits.shape[1])
