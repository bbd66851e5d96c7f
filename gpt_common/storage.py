"""Atomic writes, and safetensors files larger than memory.

Tensors are memory-mapped when read and written one at a time, so that neither takes more memory
than one tensor.
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
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from gpt_common.errors import InputError, printable, reason
from gpt_common.weights import Array, Weights

# The floating-point dtypes of https://huggingface.co/docs/safetensors, except 8-bit ones.
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MappedFile = npt.NDArray[np.uint8]

# The names of paths that `temporary_path` and `_backup` return.
TEMPORARY = re.compile(r"\..+-[0-9a-f]{32}\.part")
BACKUP = re.compile(r"\.(.+)-aside\.part")

MAX_JSON_BYTES = 1 << 22  # fifty times the size of gpt2-xl's index
MAX_HEADER_BYTES = 1 << 24  # a safetensors header of 150,000 tensors


def require_file(path: Path) -> None:
    """Raise `InputError` unless `path` is a regular file: reading others may block for ever."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a device, a pipe or a socket"
        raise InputError(f"{path}: expected a file, got {kind}")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises `InputError` if it is missing or damaged."""
    require_file(path)
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise InputError(f"{path}: expected JSON of at most {MAX_JSON_BYTES} bytes, got {size}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, got: {reason(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def read_safetensors(path: Path) -> Weights:
    """Return the tensors of a safetensors file, memory-mapped.

    Raises `InputError` if the file is missing or damaged, or a tensor has another dtype.
    """
    require_file(path)
    length = int.from_bytes(first_bytes(path, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise InputError(
            f"{path}: expected a whole safetensors file, got a header of {length} bytes"
        )
    try:
        with safe_open(path, framework="np"):  # checks the header and the file's length
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: expected a whole safetensors file, got: {reason(error)}"
        ) from None
    header = json.loads(first_bytes(path, 8 + length)[8:])
    header.pop("__metadata__", None)
    content = map_file(path)
    return {name: _tensor(path, content, 8 + length, name, e) for name, e in header.items()}


def _tensor(path: Path, content: MappedFile, start: int, name: str, entry: dict) -> Array:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        expected = ", ".join(DTYPES)
        raise InputError(f"{path}: {printable(name)}: expected {expected}, got {entry['dtype']}")
    return mapped_array(content, dtype, tuple(entry["shape"]), start + entry["data_offsets"][0])


def map_file(path: Path) -> MappedFile:
    """Return the bytes of a file, memory-mapped once for all arrays in it."""
    with filename_in_errors(path):
        return np.memmap(path, np.uint8, "r").view(np.ndarray)


def mapped_array(
    content: MappedFile, dtype: np.dtype, shape: tuple[int, ...], offset: int
) -> Array:
    """Return the read-only array that begins at byte `offset` of a mapped file."""
    return np.ndarray(shape, dtype, content.data, offset)


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(count)


def write_safetensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write a safetensors file, which transformers can read, one tensor at a time."""
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
    content += b" " * (-len(content) % 8)  # aligns the tensors
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for tensor in tensors.values():
            write_array(file, tensor)


def write_array(file, array: Array) -> None:  # type: ignore[no-untyped-def]
    """Write the elements of an array, in C order, to an open file."""
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, whose file replaces `path` if the block raises no error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary_path(path)
    try:
        with filename_in_errors(path):
            yield part
            sync(part)
            os.replace(part, path)
            sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which replaces `folder` if the block raises no error.

    All files are synced to the disk before the rename: a crash leaves the old or the new folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(folder)
    part = temporary_path(folder)
    try:
        with filename_in_errors(folder):
            part.mkdir()
            yield part
            for file in part.rglob("*"):
                sync(file)
            sync(part)
            # No portable call replaces a folder in one step. So the old one gets another name,
            # which readers know, until the rename of the new one is on the disk.
            if folder.is_dir():
                os.rename(folder, _backup(folder))
            os.rename(part, folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        recover_folder(folder)


@contextmanager
def filename_in_errors(path: Path) -> Iterator[None]:
    """Add `path` to an `OSError` without a file name, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def existing_folder(folder: Path) -> Path:
    """Return `folder`, or its backup if a crash interrupted its replacement."""
    backup = _backup(folder)
    return backup if backup.exists() and not folder.exists() else folder


def recover_folder(folder: Path) -> None:
    """Restore the backup that a crash left, or remove it if the new folder exists."""
    if not _backup(folder).exists():
        return
    if folder.exists():
        remove_folder(_backup(folder))
    else:
        os.rename(_backup(folder), folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder; a crash leaves either all of it under its name or nothing."""
    part = temporary_path(folder)
    os.rename(folder, part)
    sync(folder.parent)
    _remove(part)


def clean_folder(folder: Path) -> None:
    """Remove temporary files that a killed process left in a folder; restore backups.

    No other process may be writing to it.
    """
    for path in list(folder.iterdir()):
        if TEMPORARY.fullmatch(path.name):
            _remove(path)
        elif match := BACKUP.fullmatch(path.name):
            recover_folder(folder / match[1])


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """Return a new hidden path in the same folder, hence on the same disk."""
    return path.parent / f".{path.name}-{uuid.uuid4().hex}.part"


def _backup(folder: Path) -> Path:
    return folder.parent / f".{folder.name}-aside.part"


def checksum(path: Path) -> str:
    """Return the CRC-32 of a file, in hexadecimal: against damage, not forgery."""
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
