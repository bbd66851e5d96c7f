"""What a program does with a GPU whose tensors are fake: waits, devices, types of products."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
MATRIX_PRODUCTS = (
    aten.mm,
    aten.addmm,
    aten.bmm,
    aten.baddbmm,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_cudnn_attention_backward,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_efficient_attention_backward,
)


class Recorder(TorchDispatchMode):
    """Notes which operations wait for the GPU or mix devices, and what matrix products multiply.

    A program that waits goes on: what it reads is zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()
        self.products: set[torch.dtype] = set()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, operation = kwargs or {}, func.overloadpacket
        if operation in (aten.pin_memory, aten._pin_memory):
            return pinned(args[0])
        if func is not torch.ops.prim.device.default:
            with self:  # inference mode hands over operations that are made of others
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        inputs = tensors((args, kwargs))
        self.note(operation, inputs, kwargs)
        if operation is aten._local_scalar_dense:
            return zeros(inputs[0].cpu()).item()
        return func(*args, **kwargs)

    def note(self, operation, inputs: list[Tensor], options: dict) -> None:
        self.operations[str(operation)] += 1
        place = f"{operation} at {caller()}"
        if waits(operation, inputs, options):
            self.waits[place] += 1
        elif len({t.device.type for t in inputs if t.dim()}) > 1 and not is_copy(operation):
            self.mixed[place] += 1
        if operation in MATRIX_PRODUCTS:
            self.products |= {t.dtype for t in inputs[:3]}  # not the logsumexp of attention


def waits(operation, inputs: list[Tensor], options: dict) -> bool:
    """Whether the host waits: for a number, or for a copy, unless that is from pinned memory."""
    if operation is aten._local_scalar_dense:
        return inputs[0].is_cuda
    if not is_copy(operation):
        return False
    source = inputs[-1]
    target = inputs[0].device if operation is aten.copy_ else options.get("device") or source.device
    asynchronous = options.get("non_blocking", False) and getattr(source, "is_pinned_fake", False)
    return source.device.type != torch.device(target).type and not asynchronous


def is_copy(operation) -> bool:
    return operation in (aten._to_copy, aten.copy_)


def pinned(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    copy.is_pinned_fake = True
    return copy


def zeros(like: Tensor) -> np.ndarray:
    """What `numpy()` returns of a fake tensor."""
    assert like.device.type == "cpu"
    return np.zeros(tuple(like.shape), str(like.dtype).removeprefix("torch."))


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def caller() -> str:
    """The innermost line of gpt_torch that is under way."""
    frame = sys._getframe()
    while frame and "gpt_torch" not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "a test"
