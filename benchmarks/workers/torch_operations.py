"""The fast operations of gpt_torch, each beside the plain one that it replaces."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.spec import Spec
from benchmarks.workers import torch_tools as tools
from benchmarks.workers.operation import Operation
from gpt_common.config import GPTConfig, SamplingOptions
from gpt_common.hardware import processor
from gpt_common.initialization import INITIAL_STD
from gpt_torch.fast import (
    CPU_LOSS_ROWS,
    FastOps,
    OneDNNLinear,
    blockwise_attention,
    choose_fast_ops,
    chunked_cross_entropy,
)
from gpt_torch.inference import InferenceLinear, onednn_dtypes
from gpt_torch.model import causal_attention, cross_entropy
from gpt_torch.sampling import top_k_tokens

VOCAB_SIZE = GPTConfig().vocab_size
DECODE_ROWS = 5  # sequences that `generate` continues at once, by default


def default_ops(spec: Spec) -> FastOps:
    """Return the operations that the trainer uses."""
    return choose_fast_ops(tools.device_name(), spec.dtype, processor())


def compute_dtype(spec: Spec) -> torch.dtype:
    """Return the dtype that matrix products compute in."""
    return tools.DTYPES.get(spec.dtype, torch.float32)


def activation(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random numbers that require a gradient."""
    return torch.randn(shape, device=tools.device_name(), dtype=dtype, requires_grad=True)


def weight(*shape: int) -> Tensor:
    """Return initial weights, in float32."""
    return (INITIAL_STD * activation(*shape)).detach().requires_grad_()


def linear_arguments(spec: Spec) -> tuple[Tensor, ...]:
    """Return the inputs `(B, T, C)` and `(B, T, 4C)` of a layer, then its weights and biases."""
    C = spec.model.n_embd
    x = [activation(spec.batch_size, spec.seq_len, size) for size in (C, 4 * C)]
    weights = [weight(3 * C, C), weight(C, C), weight(4 * C, C), weight(C, 4 * C)]
    return *x, *weights, *(weight(len(each)) for each in weights)


def attention_arguments(spec: Spec) -> tuple[Tensor, ...]:
    """Return queries, keys and values, `(B, nh, T, hs)`."""
    head_size = spec.model.n_embd // spec.model.n_head
    shape = spec.batch_size, spec.model.n_head, spec.seq_len, head_size
    return tuple(activation(*shape, dtype=compute_dtype(spec)) for _ in range(3))


def loss_arguments(spec: Spec) -> tuple[Any, ...]:
    """Return the head's input `(B, T, C)`, its weight, the targets, and the fast operations."""
    x = activation(spec.batch_size, spec.seq_len, spec.model.n_embd)
    head = weight(spec.model.padded_vocab_size, spec.model.n_embd)
    targets = torch.randint(VOCAB_SIZE, x.shape[:2], device=x.device)
    ops = default_ops(spec)
    return x, head, targets, replace(ops, loss_rows=ops.loss_rows or CPU_LOSS_ROWS)


def decode_arguments(spec: Spec) -> tuple[Any, ...]:
    """Return the input of the MLP, one token of each sequence, its weights, and these packed."""
    C = spec.model.n_embd
    w, bias, dtype = weight(4 * C, C), weight(4 * C), compute_dtype(spec)
    packed = InferenceLinear(w, bias, dtype, packed=dtype in onednn_dtypes())
    return activation(DECODE_ROWS, C), w, bias, packed


def sampling_arguments(spec: Spec) -> tuple[Tensor, ...]:
    """Return logits `(R, V)`, with the ties of bfloat16."""
    return (activation(DECODE_ROWS, VOCAB_SIZE).bfloat16().float(),)


def four(linear: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function that applies `linear` to the four linear layers of a transformer layer."""

    def call(x: Tensor, h: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        layers = zip((x, x, x, h), parameters[:4], parameters[4:], strict=True)
        return tuple(linear(*layer) for layer in layers)

    return call


def sort_top_k(logits: Tensor) -> tuple[Tensor, ...]:
    """Return the largest logits and their tokens, by a stable sort of all."""
    values, tokens = logits.sort(dim=-1, descending=True, stable=True)
    k = SamplingOptions().top_k
    return values[:, :k], tokens[:, :k]


def plain_loss(x: Tensor, head: Tensor, targets: Tensor, ops: FastOps) -> Tensor:
    """Return the loss, from the logits of the whole batch."""
    return cross_entropy(F.linear(x, head)[..., :VOCAB_SIZE].float(), targets)


OPERATIONS = (
    Operation(
        "linear layers",
        linear_arguments,
        plain=four(F.linear),
        fast=four(OneDNNLinear.apply),
        option="onednn_linear",
        devices=("cpu",),
        dtypes=("float32",),
    ),
    Operation(
        "attention",
        attention_arguments,
        plain=causal_attention,
        fast=blockwise_attention,
        option="blockwise_attention",
    ),
    Operation(
        "head and loss",
        loss_arguments,
        plain=plain_loss,
        fast=lambda x, w, targets, ops: chunked_cross_entropy(x, w, targets, VOCAB_SIZE, ops),
        option="loss_rows",
    ),
    Operation(
        f"decode c_fc, {DECODE_ROWS} tokens",
        decode_arguments,
        plain=lambda x, w, bias, packed: F.linear(x, w, bias),
        fast=lambda x, w, bias, packed: packed(x),
        devices=("cpu",),
        training=False,
    ),
    Operation(
        f"sample top-k, {DECODE_ROWS} tokens",
        sampling_arguments,
        plain=sort_top_k,
        fast=lambda logits: top_k_tokens(logits, SamplingOptions().top_k),
        dtypes=("float32",),
        training=False,
    ),
)


def passes(
    function: Callable[..., Any], arguments: tuple[Any, ...], spec: Spec
) -> dict[str, Callable[[], object]]:
    """Return the forward pass, under autocast as in the trainer, and forward with backward."""
    device, bfloat16 = tools.device_name(), spec.dtype == "bfloat16"

    def forward() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            return function(*arguments)

    if spec.seq_len == 1:
        return {"forward": torch.no_grad()(forward)}
    outputs = forward()
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    gradients = [torch.ones_like(output) for output in outputs]
    leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]

    def forward_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(), leaves, gradients)

    return {"forward": forward, "forward_backward": forward_backward}
