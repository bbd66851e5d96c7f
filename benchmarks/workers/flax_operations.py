"""The fast operations of gpt_flax, each beside the plain one that it replaces."""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from benchmarks.spec import Spec
from benchmarks.workers import jax_tools as tools
from benchmarks.workers.operation import Operation
from gpt_common.config import GPTConfig
from gpt_common.hardware import processor
from gpt_common.initialization import INITIAL_STD
from gpt_flax.fast import (
    CPU_LOSS_ROWS,
    GPU_LOSS_ROWS,
    FastOps,
    blockwise_attention,
    choose_fast_ops,
    chunked_cross_entropy,
    cudnn_attention,
    dense_2d,
    flatten_batch,
    matmul,
    remat_gelu,
    small_batch_options,
)
from gpt_flax.model import causal_attention, cross_entropy
from gpt_flax.precision import DTYPES

VOCAB_SIZE = GPTConfig().vocab_size
DECODE_ROWS = 5  # sequences that `generate` continues at once, by default
_seeds = count()


def default_ops(spec: Spec) -> FastOps:
    """Return the operations that the trainer uses."""
    device_type = "gpu" if tools.device_name() == "cuda" else tools.device_name()
    return choose_fast_ops(device_type, spec.dtype, processor())


def activation(spec: Spec, *shape: int) -> Array:
    """Return random numbers in the dtype that matrix products compute in."""
    return jax.random.normal(jax.random.key(next(_seeds)), shape, DTYPES[spec.dtype])


def weight(*shape: int) -> Array:
    """Return initial weights, in float32."""
    return INITIAL_STD * jax.random.normal(jax.random.key(next(_seeds)), shape)


def linear_arguments(spec: Spec) -> tuple[Array, ...]:
    """Return the inputs `(B, T, C)` and `(B, T, 4C)` of a layer, then its kernels and biases."""
    C = spec.model.n_embd
    x = [activation(spec, spec.batch_size, spec.seq_len, size) for size in (C, 4 * C)]
    kernels = [weight(C, 3 * C), weight(C, C), weight(C, 4 * C), weight(4 * C, C)]
    return *x, *kernels, *(weight(kernel.shape[1]) for kernel in kernels)


def gelu_arguments(spec: Spec) -> tuple[Array, ...]:
    """Return the input of the GELU, `(B, T, 4C)`."""
    return (activation(spec, spec.batch_size, spec.seq_len, 4 * spec.model.n_embd),)


def attention_arguments(spec: Spec) -> tuple[Array, ...]:
    """Return queries, keys and values, `(B, T, nh, hs)`."""
    head_size = spec.model.n_embd // spec.model.n_head
    shape = spec.batch_size, spec.seq_len, spec.model.n_head, head_size
    return tuple(activation(spec, *shape) for _ in range(3))


def loss_arguments(spec: Spec) -> tuple[Array, ...]:
    """Return the head's input `(B, T, C)`, its weight `(padded V, C)` and the targets `(B, T)`."""
    x = activation(spec, spec.batch_size, spec.seq_len, spec.model.n_embd)
    targets = jax.random.randint(jax.random.key(next(_seeds)), x.shape[:2], 0, VOCAB_SIZE)
    return x, weight(spec.model.padded_vocab_size, spec.model.n_embd), targets


def matmul_arguments(spec: Spec) -> tuple[Array, ...]:
    """Return the operands of the MLP's first layer, `(B T, C)` and `(C, 4C)`."""
    C = spec.model.n_embd
    return activation(spec, spec.tokens_per_step, C), activation(spec, C, 4 * C)


def decode_arguments(spec: Spec, rows: int) -> tuple[Array, ...]:
    """Return the same for `rows` tokens, one of each sequence."""
    C = spec.model.n_embd
    return activation(spec, rows, C), activation(spec, C, 4 * C)


def dense(x: Array, kernel: Array, bias: Array) -> Array:
    """Return the output of `nn.Dense`, computed in the dtype of `x`."""
    layer = nn.Dense(kernel.shape[1], dtype=x.dtype)
    return layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)


def four(linear: Callable[..., Array]) -> Callable[..., tuple[Array, ...]]:
    """Return a function that applies `linear` to the four linear layers of a transformer layer."""

    def call(x: Array, h: Array, *parameters: Array) -> tuple[Array, ...]:
        layers = zip((x, x, x, h), parameters[:4], parameters[4:], strict=True)
        return tuple(linear(*layer) for layer in layers)

    return call


def plain_loss(x: Array, head: Array, targets: Array) -> Array:
    """Return the loss, from the logits of the whole batch, computed in the dtype of `x`."""
    logits = (x @ head.astype(x.dtype).T)[..., :VOCAB_SIZE]
    return cross_entropy(logits.astype(head.dtype), targets)


def fast_loss(x: Array, head: Array, targets: Array) -> Array:
    """Return the same, by chunks of rows."""
    rows, targets = flatten_batch(x), targets.ravel()
    rows_in_chunk = CPU_LOSS_ROWS if tools.device_name() == "cpu" else GPU_LOSS_ROWS
    return chunked_cross_entropy(rows, head, targets, VOCAB_SIZE, x.dtype, rows_in_chunk)


OPERATIONS = (
    Operation(
        "linear layers",
        linear_arguments,
        plain=four(dense),
        fast=four(dense_2d),
        option="dense_2d",
    ),
    Operation(
        "GELU",
        gelu_arguments,
        plain=jax.nn.gelu,
        fast=partial(remat_gelu, approximate=True),
        option="remat_gelu",
    ),
    Operation(
        "attention",
        attention_arguments,
        plain=causal_attention,
        fast=blockwise_attention,
        option="blockwise_attention",
    ),
    Operation(
        "cuDNN attention",
        attention_arguments,
        plain=causal_attention,
        fast=cudnn_attention,
        option="cudnn_attention",
        devices=("cuda",),
        dtypes=("bfloat16",),
    ),
    Operation(
        "head and loss",
        loss_arguments,
        plain=plain_loss,
        fast=fast_loss,
        option="loss_rows",
    ),
    Operation(
        "matmul c_fc",
        matmul_arguments,
        plain=jnp.matmul,
        fast=matmul,
        option="dense_2d",
        dtypes=("bfloat16",),
    ),
    Operation(
        "decode c_fc, 1 token",
        partial(decode_arguments, rows=1),
        plain=partial(jnp.matmul, preferred_element_type=jnp.float32),
        fast=matmul,
        option="dense_2d",
        dtypes=("bfloat16",),
        training=False,
    ),
    Operation(
        f"decode c_fc, {DECODE_ROWS} tokens",
        partial(decode_arguments, rows=DECODE_ROWS),
        plain=jax.jit(jnp.matmul),
        fast=jax.jit(jnp.matmul, compiler_options=small_batch_options(jax.__version_info__)),
        devices=("cpu",),
        dtypes=("float32",),
        training=False,
    ),
)


def passes(
    function: Callable[..., Any], arguments: tuple[Array, ...], spec: Spec
) -> dict[str, Callable[[], object]]:
    """Return the forward pass, and forward with backward as one program, as in the trainer."""
    forward = function if hasattr(function, "lower") else jax.jit(function)
    if spec.seq_len == 1:
        return {"forward": lambda: forward(*arguments)}
    with_backward = forward_backward(function)
    gradients = jax.tree.map(jnp.ones_like, forward(*arguments))
    return {
        "forward": lambda: forward(*arguments),
        "forward_backward": lambda: with_backward(gradients, *arguments),
    }


def forward_backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the forward and the backward pass, jitted, of the outputs' gradients and arguments."""

    @jax.jit
    def call(gradients: Any, *arguments: Array) -> Any:
        floats = [a for a in arguments if jnp.issubdtype(a.dtype, jnp.floating)]
        integers = arguments[len(floats) :]  # come last
        outputs, pull_back = jax.vjp(lambda *x: function(*x, *integers), *floats)
        return outputs, pull_back(gradients)

    return call
