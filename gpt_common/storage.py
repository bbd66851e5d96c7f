"""Files that are whole or not there: atomic writes, and safetensors larger than memory.

Tensors are read as memory-mapped arrays, which cost nothing until they are used, and written one at
a time, so that neither reading nor writing a model needs memory for more than one of its tensors.
"""

import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from gpt_common.errors import InputError
from gpt_common.weights import Array, Weights

# The dtypes of https://huggingface.co/docs/safetensors that weights come in.
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# The names that `temporary_beside` and `_aside` give.
TEMPORARY = re.compile(r"\..+-[0-9a-f]{32}\.part")
ASIDE = re.compile(r"\.(.+)-aside\.part")


def read_safetensors(path: Path) -> Weights:
    """Return the tensors of a safetensors file, memory-mapped.

    Raises `InputError` where the file is missing, damaged, or holds another type than floats.
    """
    try:
        with safe_open(path, framework="np"):  # checks the header and the length of the file
            pass
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: expected a whole safetensors file, got: {error}") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: _map_tensor(path, 8 + length, name, entry) for name, entry in header.items()}


def _map_tensor(path: Path, start: int, name: str, entry: dict) -> Array:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise InputError(
            f"{path}: {name}: expected one of {', '.join(DTYPES)}, got {entry['dtype']}"
        )
    shape = tuple(entry["shape"])
    if 0 in shape:  # nothing to map
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start + entry["data_offsets"][0], shape)


def write_safetensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write tensors, one at a time, as a safetensors file that Hugging Face reads."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (offset, offset + tensor.nbytes),
        }
        offset += tensor.nbytes
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)  # so that the tensors are aligned
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for tensor in tensors.values():
            write_array(file, tensor)


def write_array(file, array: Array) -> None:  # type: ignore[no-untyped-def]
    """Append the numbers of an array, in C order, to an open file."""
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose file takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary_beside(path)
    try:
        with naming(path):
            yield part
            sync(part)
            os.replace(part, path)
            sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `folder` when the block ends well.

    Everything is on the disk before the rename, so that a crash leaves the old or the new folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(folder)
    part = temporary_beside(folder)
    try:
        with naming(folder):
            part.mkdir()
            yield part
            for file in part.rglob("*"):
                sync(file)
            sync(part)
            # No portable call replaces a folder in one step. So the old one stands aside, whole and
            # under a name that readers know, until the new one has its place for good.
            if folder.is_dir():
                os.rename(folder, _aside(folder))
            os.rename(part, folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        recover_folder(folder)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in an error that names no file, as that of a full disk does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def existing_folder(folder: Path) -> Path:
    """Return where a folder is: in its place, or aside where a crash came as it was replaced."""
    aside = _aside(folder)
    return aside if aside.exists() and not folder.exists() else folder


def recover_folder(folder: Path) -> None:
    """Put back a folder that stands aside, or remove it where another has taken its place."""
    if not _aside(folder).exists():
        return
    if folder.exists():
        remove_folder(_aside(folder))
    else:
        os.rename(_aside(folder), folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a crash leaves all or nothing of it under its name."""
    part = temporary_beside(folder)
    os.rename(folder, part)
    sync(folder.parent)
    _remove(part)


def clean_folder(folder: Path) -> None:
    """Remove what a killed process left of the atomic writes in a folder; put back what was aside.

    No other process may be writing there.
    """
    for path in list(folder.iterdir()):
        if TEMPORARY.fullmatch(path.name):
            _remove(path)
        elif match := ASIDE.fullmatch(path.name):
            recover_folder(folder / match[1])


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def temporary_beside(path: Path) -> Path:
    """Return a hidden path of its own in the same folder, and so on the same disk."""
    return path.parent / f".{path.name}-{uuid.uuid4().hex}.part"


def _aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}-aside.part"


def checksum(path: Path) -> str:
    """Return the CRC-32 of a file, in hexadecimal.

    It is to find damage, not forgery, and takes less than half the time of SHA-256.
    """
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
