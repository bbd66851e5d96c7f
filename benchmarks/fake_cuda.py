"""A CUDA device for a build of torch without one: fake tensors, which have a device and no values.

Forward passes run over them, autocast included. Backward passes need a library that is loaded
before torch: `python -m benchmarks.fake_cuda -m MODULE ...` runs a module with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt_common import cli
from gpt_common.errors import InputError

SOURCE = Path(__file__).with_name("guard.cpp")
aten = torch.ops.aten


def compile_guard(folder: Path) -> Path:
    """Compile the library into `folder`; return its path.

    Raises `InputError` where there is no C++ compiler.
    """
    compiler = shutil.which("c++")
    if compiler is None:
        raise InputError("expected a C++ compiler, c++, for fake CUDA tensors, found none")
    torch_folder, library = Path(torch.__file__).parent, folder / "guard.so"
    lib = torch_folder / "lib"
    paths = [f"-I{torch_folder / 'include'}", f"-L{lib}", f"-Wl,-rpath,{lib}"]
    options = ["-std=c++20", "-shared", "-fPIC", *paths, "-ltorch_cpu", "-lc10"]
    subprocess.run([compiler, SOURCE, "-o", library, *options], check=True)
    return library


def is_preloaded() -> bool:
    """Whether this process has loaded the library before torch, so that backward passes run."""
    return hasattr(ctypes.CDLL(None), "register_guard")


@contextlib.contextmanager
def fake_cuda(library: Path | None = None) -> Iterator[None]:
    """Let all new tensors be fake ones, also on `cuda`, a GPU with bfloat16.

    `library` is the compiled guard, for a process that has not preloaded it.
    """
    guard = ctypes.CDLL(library and str(library))
    guard.register_guard(True)
    try:
        with (
            mock.patch("torch.cuda.is_bf16_supported", return_value=True),
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
            mock.patch.object(F, "scaled_dot_product_attention", attention),
            FakeTensorMode(allow_non_fake_inputs=True),
        ):
            yield
    finally:
        guard.register_guard(False)


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Attend with the operations that torch chooses on an H100; a CPU build has no choice."""
    cudnn = q.dtype == torch.bfloat16
    operation = (
        aten._scaled_dot_product_cudnn_attention
        if cudnn
        else aten._scaled_dot_product_efficient_attention
    )
    y: Tensor = operation(q, k, v, attn_mask, True, 0.0, is_causal)[0]
    return y


class PeakMemory(TorchDispatchMode):
    """The most bytes of CUDA memory that were in use at once, without what an allocator wastes."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and add the memory of its results."""
        output = func(*args, **kwargs or {})
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.is_cuda:
                self.add(tensor.untyped_storage())
        self.peak = max(self.peak, sum(self.live.values()))
        return output

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed."""
        if storage._cdata not in self.live:
            self.live[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, storage._cdata)


def main() -> None:
    """Run Python with the arguments of the command line and the library preloaded."""
    if sys.platform != "linux":
        raise InputError(f"expected Linux, which can preload a library, got {sys.platform}")
    with tempfile.TemporaryDirectory() as folder:
        environ = os.environ | {"LD_PRELOAD": str(compile_guard(Path(folder)))}
        sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], env=environ).returncode)


if __name__ == "__main__":
    cli.run(main)
