"""A CUDA device for a build of torch without one: fake tensors, which have a device and no values.

Forward passes run over them, autocast included; the autograd engine asks for a real device.
"""

import contextlib
import ctypes
import shutil
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# torch asks the guard of a device to switch devices and streams; a CPU build has none for CUDA.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
extern "C" void register_guard(bool on) {
  static c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
  constexpr auto cuda = static_cast<size_t>(c10::DeviceType::CUDA);
  c10::impl::device_guard_impl_registry[cuda].store(on ? &guard : nullptr);
}
"""
aten, attention = torch.ops.aten, F.scaled_dot_product_attention
MATRIX_PRODUCTS = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)


def compile_guard(folder: Path) -> ctypes.CDLL:
    """Return the compiled guard; skip the test where there is no C++ compiler."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler, which a device guard for fake CUDA tensors needs")
    source, library, torch_folder = folder / "guard.cpp", folder / "guard.so", Path(torch.__file__)
    source.write_text(GUARD)
    include, lib = torch_folder.parent / "include", torch_folder.parent / "lib"
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{include}", f"-L{lib}", "-lc10"]
    subprocess.run([compiler, source, "-o", library, *options], check=True)
    return ctypes.CDLL(str(library))


@contextlib.contextmanager
def fake_cuda(guard: ctypes.CDLL) -> Iterator["Recorder"]:
    """Let all tensors be fake ones, also on `cuda`, a GPU with bfloat16; note what they do."""
    guard.register_guard(True)
    try:
        with (
            mock.patch("torch.cuda.is_bf16_supported", return_value=True),
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
            mock.patch.object(Tensor, "numpy", zeros),
            FakeTensorMode(allow_non_fake_inputs=True),
            Recorder() as recorder,
            mock.patch.object(F, "scaled_dot_product_attention", recorder.attention),
        ):
            yield recorder
    finally:
        guard.register_guard(False)


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
            self.products |= {t.dtype for t in inputs}

    def attention(self, *args, **options) -> Tensor:
        """Attend; note no products but one, as a CPU build has no kernel of CUDA's."""
        products = self.products
        self.products = set()
        y = attention(*args, **options)
        self.products = products | {y.dtype}
        return y


class PeakMemory(TorchDispatchMode):
    """The most bytes of CUDA memory that were in use at once, without what an allocator wastes."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **kwargs or {})
        for tensor in tensors(output):
            storage = tensor.untyped_storage()
            if tensor.is_cuda and storage._cdata not in self.live:
                self.live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.live.values()))
        return output


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
