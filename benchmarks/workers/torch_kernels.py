"""The operations of gpt_torch's training step, which runs over tensors without values."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from benchmarks.fake_cuda import PeakMemory, fake_cuda
from benchmarks.spec import Dtype, Spec
from benchmarks.workers.kernels import Kernel
from gpt_common.config import OptimizerOptions
from gpt_common.hardware import Processor
from gpt_torch import fast
from gpt_torch.fast import FastOps, choose_fast_ops, create_model
from gpt_torch.optimizer import clip_and_update, create_optimizer
from gpt_torch.train import TrainState, train_step

aten = torch.ops.aten
READS_A_PART = (aten.gather, aten.embedding)  # of the first operand, as large as the result
WRITES_ONLY = (aten.copy_, aten.fill_, aten.zero_)
# The fake tensors are on a CPU, whose attention is another operation than a GPU's.
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        aten._scaled_dot_product_flash_attention_backward
    ),
}


def kernels(spec: Spec, card: str) -> list[Kernel]:
    """Return the operations of a step as PyTorch runs it without torch.compile.

    Any card runs the same. Their bytes are an upper bound: every operand is read from memory, and
    every result is written to it, though a cache may hold some.
    """
    ops = fast_ops(spec)
    with FakeTensorMode(), on_a_gpu(ops):
        step = first_step(spec, ops)
        with Recorder() as recorder:
            train_step(*step, recorder.update)
    return recorder.kernels


def peak_memory(spec: Spec, card: str) -> int:
    """Return the most bytes of CUDA tensors at once, in two steps without torch.compile.

    Call it in a process of `benchmarks.fake_cuda`. Any card needs the same.
    """
    with fake_cuda(), torch.device("cuda"), PeakMemory() as memory:
        step = first_step(spec, fast_ops(spec))
        for _ in range(2):  # the first one creates the moments
            train_step(*step)
    return memory.peak


def fast_ops(spec: Spec) -> FastOps | None:
    """Return the operations that a GPU uses."""
    return choose_fast_ops("cuda", spec.dtype, Processor()) if spec.fast_ops else None


def first_step(
    spec: Spec, ops: FastOps | None
) -> tuple[TrainState, Tensor, Tensor, float, float, Dtype]:
    """Return the arguments of `train_step` at the start of a run."""
    model = create_model(spec.model, ops)
    state = TrainState(model, create_optimizer(model, OptimizerOptions()))
    tokens = torch.zeros(1, spec.batch_size, spec.seq_len, dtype=torch.int64)
    return state, tokens, tokens, 1e-3, 1.0, spec.dtype


def on_a_gpu(ops: FastOps | None) -> AbstractContextManager[object]:
    """Let the softmax of the loss go by as many rows as on a GPU; the fake tensors are on a CPU."""
    rows = ops.loss_rows if ops else fast.SOFTMAX_ROWS
    return mock.patch.object(fast, "SOFTMAX_ROWS", rows)


class Recorder(TorchDispatchMode):
    """Notes each operation with the layers that it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._layers, self._updates = ModuleTracker(), False

    def __enter__(self) -> Recorder:
        self._layers.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._layers.__exit__(*exception)

    def update(self, *args: Any) -> Tensor:
        """Clip and update, outside of the loss."""
        self._updates = True
        return clip_and_update(*args)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note it if it moves data."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if size := bytes_moved(func, args, kwargs, result):
            layer = "update" if self._updates else "/".join(["loss", *sorted(self._layers.parents)])
            self.kernels.append(Kernel(layer, size, product_flops(func, args, kwargs, result)))
        return result


def bytes_moved(func: OpOverload, args: tuple, kwargs: dict[str, Any], result: Any) -> int:
    """Return the bytes that an operation reads and writes; 0 for a view."""
    schema, operation = func._schema, func.overloadpacket
    values = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
    inputs = tensors(list(values.values()))
    storages = {storage(t) for t in inputs}
    results = [t for t in tensors(result) if storage(t) not in storages]
    written = tensors([values.get(a.name) for a in schema.arguments if is_written(a)])
    if not results and not written:
        return 0
    if operation in READS_A_PART:
        return sum(map(tensor_bytes, [*inputs[1:], *results, *results]))
    if operation is aten.scatter_add_:  # reads and writes only what it adds to
        return 3 * tensor_bytes(values["src"]) + tensor_bytes(values["index"])
    if operation in WRITES_ONLY:
        inputs = inputs[1:]
    return sum(map(tensor_bytes, [*inputs, *results, *written]))


def is_written(argument: torch.Argument) -> bool:
    """Whether an operation writes to an argument."""
    return argument.alias_info is not None and argument.alias_info.is_write


def tensors(tree: object) -> list[Tensor]:
    """Return the tensors of nested lists, tuples and dicts."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    """Return what views of the same memory have in common."""
    return tensor.untyped_storage()._cdata


def tensor_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's elements, those of a broadcast dimension once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.itemsize * math.prod(size for size, stride in sizes if stride)


def product_flops(func: OpOverload, args: tuple, kwargs: dict[str, Any], result: Any) -> float:
    """Return the FLOPs of matrix products, of causal attention half of them."""
    operation = func.overloadpacket
    count = flop_registry.get(ATTENTION.get(operation, operation))
    if count is None:
        return 0.0
    return count(*args, **kwargs, out_val=result) / (2 if operation in ATTENTION else 1)
