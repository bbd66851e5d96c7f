"""torch's files, read without running anything that is in them."""

import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gpt_common.errors import InputError
from gpt_common.weights import Array

LEGACY_START = b"\x80\x02"  # a pickle of protocol 2, which torch before 1.6 opens with


class BuildNanoGPTConfig:
    """Takes the place of build-nanogpt's configuration, a class of the program that wrote it."""


# Their names in the files. Reading one makes an empty object and sets its attributes, no more.
CLASSES: list[Any] = [
    (BuildNanoGPTConfig, f"{module}.GPTConfig") for module in ("__main__", "train_gpt2")
]


def is_torch_file(path: Path) -> bool:
    """Whether a file opens as torch's do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return start.startswith((b"PK\x03\x04", LEGACY_START))


def peek(path: Path) -> dict:
    """Return the dict in a torch file; an empty one for any other file.

    Raises `InputError` for a torch file that is damaged or wants more than tensors.
    """
    content = load(path) if is_torch_file(path) else {}
    return content if isinstance(content, dict) else {}


def load(path: Path) -> Any:
    """Return what a torch file holds, its tensors memory-mapped where the format allows.

    Only tensors, plain containers and `CLASSES` are read. Raises `InputError` for a file that is
    damaged or wants more.
    """
    import torch

    try:
        is_zip = zipfile.is_zipfile(path)
        _check_sizes(path, is_zip)
        with torch.serialization.safe_globals(CLASSES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about what a damaged file asks for
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise InputError(f"{path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = str(error)
    if unwanted := re.search(r"GLOBAL (\S+)|Trying to load unsupported GLOBAL (\S+)", text):
        return f"refused: the file asks for {unwanted[1] or unwanted[2]}, which could run code"
    return (
        f"expected a whole torch file of tensors, got: {text.splitlines()[0] if text else error!r}"
    )


def _check_sizes(path: Path, is_zip: bool) -> None:
    """Raise `InputError` where a file claims to hold more than it has bytes."""
    size = path.stat().st_size
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > size:
            raise InputError(f"{path}: expected a torch file, whose entries are not compressed")
        return
    # Before torch 1.6 a file was four pickles, the last of which has the sizes of the tensors.
    with path.open("rb") as file:
        for _ in range(3):
            for _ in pickletools.genops(file):
                pass
        numbers = [argument for _, argument, _ in pickletools.genops(file)]
    if any(isinstance(n, int) and abs(n) > size for n in numbers):
        raise InputError(f"{path}: expected tensors no larger than the file of {size} bytes")


def to_arrays(tensors: Mapping[str, Any], source: str) -> dict[str, Array]:
    """Return a state dict as numpy arrays of the same bits.

    Raises `InputError` where an entry is not a tensor under a name.
    """
    import torch

    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise InputError(f"{source}: expected tensors by name, got {name!r}: {type(tensor)}")
    return {name: to_array(tensor) for name, tensor in tensors.items()}


def to_array(tensor: Any) -> Array:
    """Return a torch tensor as a numpy array of the same bits, bfloat16 included."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def to_tensor(array: Array) -> Any:
    """Return a numpy array as a torch tensor of the same bits, bfloat16 included."""
    import torch

    array = np.array(array)  # torch wants arrays that it may write to
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
