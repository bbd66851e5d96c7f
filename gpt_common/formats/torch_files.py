"""torch's files, read without executing code in a pickle."""

import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from gpt_common.errors import InputError, brief, printable, reason
from gpt_common.storage import first_bytes, require_file
from gpt_common.weights import Array, num_bytes

LEGACY_START = b"\x80\x02"  # a pickle of protocol 2: files of torch before 1.6
MAX_OPCODES = 300_000  # in a pickle, for eight thousand tensors
MAX_IN_TUPLE = 1000  # objects; a tensor takes 20
MARK = 0  # on the stack, in place of a size


class BuildNanoGPTConfig:
    """Replaces build-nanogpt's configuration class, which is not importable."""


# With their names in the files. Unpickling creates an empty object and sets its attributes.
CLASSES: list[Any] = [
    (BuildNanoGPTConfig, f"{module}.GPTConfig") for module in ("__main__", "train_gpt2")
]


def is_torch_file(path: Path) -> bool:
    """Whether a file begins like torch's."""
    return path.is_file() and first_bytes(path, 4).startswith((b"PK\x03\x04", LEGACY_START))


def peek(path: Path) -> dict:
    """Return the dict in a torch file; an empty one for any other file.

    Raises `InputError` for a torch file that is damaged or refused.
    """
    content = load(path) if is_torch_file(path) else {}
    return content if isinstance(content, dict) else {}


def load(path: Path) -> Any:
    """Return the content of a torch file, with tensors memory-mapped unless it is a legacy file.

    Raises `InputError` if it is damaged or has objects other than tensors, plain containers and
    `CLASSES`.
    """
    import torch

    require_file(path)
    try:
        is_zip = zipfile.is_zipfile(path)
        _check_zip(path) if is_zip else _check_legacy(path)
        with torch.serialization.safe_globals(CLASSES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # by torch about damaged files
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except InputError:
        raise
    except Exception as error:  # for a damaged file torch raises almost anything
        raise InputError(f"{path}: {_reason(error)}") from None


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a torch file. Raises `OSError` if the disk is full."""
    import torch

    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # how torch reports a full disk, and Ctrl-C
            raise error.__context__ or error from None


def _reason(error: Exception) -> str:
    text = str(error)
    if unwanted := re.search(r"GLOBAL (\S+)|Trying to load unsupported GLOBAL (\S+)", text):
        name = printable(unwanted[1] or unwanted[2])
        return f"refused: the file asks for {name}, which could run code"
    return f"expected a whole torch file of tensors, got: {reason(error)}"


def _check_zip(path: Path) -> None:
    """Raise `InputError` if a file claims to hold more bytes than it has."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise InputError(f"{path}: expected a torch file, whose entries are not compressed")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                with archive.open(entry) as file:
                    _check_pickle(file, path)


def _check_legacy(path: Path) -> None:
    """Raise `InputError` if a file claims to hold more bytes than it has.

    It has five pickles: two numbers, system information, the content, the storages' keys.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        numbers = [_check_pickle(file, path) for _ in range(5)]
    if any(abs(n) > size for n in numbers[3]):
        raise InputError(f"{path}: expected tensors no larger than the file of {size} bytes")


def _check_pickle(file: IO[bytes], path: Path) -> list[int]:
    """Return the integers in a pickle. Raises `InputError` if it could take very long to read.

    Hashing n nested tuples, each of the same tuple twice, takes 2**n steps.
    """
    sizes: dict[Any, int] = {}  # of memoized objects, including nested tuples
    stack: list[int] = []
    numbers: list[int] = []
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count == MAX_OPCODES:
            raise InputError(f"{path}: expected at most {MAX_OPCODES} opcodes in a pickle")
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            sizes[argument] = stack[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            stack.append(sizes[argument])
        else:
            stack += _sizes_after(opcode, stack)
            numbers += [argument] if isinstance(argument, int) else []
        if stack and stack[-1] > MAX_IN_TUPLE:
            raise InputError(f"{path}: expected at most {MAX_IN_TUPLE} objects in a tuple")
    return numbers


def _sizes_after(opcode: pickletools.OpcodeInfo, stack: list[int]) -> list[int]:
    """Pop the stack like an opcode; return the sizes of the objects that it pushes."""
    taken, before = 0, list(opcode.stack_before)
    if pickletools.markobject in before:
        while size := stack.pop():
            taken += size
        before = before[:-2]
    taken += sum(stack.pop() for _ in before)
    if opcode.name == "MARK":
        return [MARK]
    size = 1 + taken if opcode.name.startswith("TUPLE") else 1  # hashing others does not recurse
    return [size for _ in opcode.stack_after]


def to_arrays(tensors: Mapping[str, Any], source: str) -> dict[str, Array]:
    """Return a state dict as numpy arrays of the same bits.

    Raises `InputError` if an entry is not a dense tensor under a name, or tensors claim more bytes
    than their storages have.
    """
    import torch

    arrays: dict[str, Array] = {}
    storages: dict[int, int] = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise InputError(f"{source}: expected tensors by name, got {brief(name)}: {kind}")
        try:
            arrays[name] = to_array(tensor)
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        except Exception:  # sparse, quantized, 8-bit: each has its own type
            kind = f"{printable(name)}: expected an array, got {tensor.layout} of {tensor.dtype}"
            raise InputError(f"{source}: {kind}") from None
    # Only the head and the embedding may share a storage.
    if num_bytes(arrays) > 2 * sum(storages.values()):
        raise InputError(f"{source}: expected separate tensors, got some that share memory")
    return arrays


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

    array = np.array(array)  # torch requires a writable array
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
