"""Files of uint16 tokens: `.npy`, nanoGPT's raw `.bin`, and llm.c's `.bin` with a header.

The count in a header is checked against the size of the file. A file is open only while a slice is
read, so that a folder may have more files than a process can open.
"""

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpt_common.errors import InputError
from gpt_common.storage import require_file

SUFFIXES = (".npy", ".bin")
HEAD_BYTES = 1 << 14  # numpy reads headers of at most 10,000
NPY_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # differs in the encoding of field names
}

# The first int32 of llm.c's files; as two tokens they are outside GPT-2's vocabulary.
LLMC_MAGIC = 20240520
LLMC_VERSION = 1
LLMC_HEADER_BYTES = 1024
LLMC_OTHERS = {
    20240326: "a model",
    20240327: "a model's activations",
    20240328: "a tokenizer",
    20240522: "multiple-choice questions",
    20240801: "the uint32 tokens of Llama 3",
    20240803: "a model of Llama 3",
}


@dataclass(frozen=True)
class TokenFile:
    """The `length` tokens of a file from byte `offset` on; a slice reads them from the disk.

    It raises `InputError` if the file has been truncated since, `OSError` if it was removed.
    """

    path: Path
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: slice, /) -> npt.NDArray[np.uint16]:
        start, stop, _ = index.indices(self.length)
        count = max(0, stop - start)
        tokens = np.fromfile(self.path, np.uint16, count, offset=self.offset + 2 * start)
        if len(tokens) < count:
            raise InputError(f"{self.path}: expected {self.length} tokens, got fewer")
        return tokens


def open_tokens(path: Path) -> TokenFile:
    """Return the tokens of a `.npy` file, or of a `.bin` file, raw or llm.c's.

    Raises `InputError` if they are not one-dimensional uint16, or not as many as in the header.
    """
    require_file(path)
    size = path.stat().st_size
    if not size:  # reading some files of size 0, in /proc, blocks for ever
        raise InputError(f"{path}: expected uint16 tokens, got an empty file")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if path.suffix == ".npy" or head.startswith(np.lib.format.MAGIC_PREFIX):
        tokens = _open_npy(path, head)
    else:
        tokens = _open_bin(path, head, size)
    expected = tokens.offset + 2 * tokens.length
    if size != expected:
        raise InputError(
            f"{path}: expected {expected} bytes for the {tokens.length} tokens "
            f"that its header states, got {size}"
        )
    if not tokens.length:
        raise InputError(f"{path}: expected tokens, got none")
    return tokens


def llmc_header(count: int) -> bytes:
    """Return the header of llm.c's file of `count` tokens."""
    header = np.zeros(LLMC_HEADER_BYTES // 4, "<i4")
    header[:3] = LLMC_MAGIC, LLMC_VERSION, count
    return header.tobytes()


def _open_bin(path: Path, head: bytes, size: int) -> TokenFile:
    magic, version, count = np.frombuffer(head[:12].ljust(12, b"\0"), "<i4").tolist()
    if magic in LLMC_OTHERS:
        raise InputError(f"{path}: expected uint16 tokens, got {LLMC_OTHERS[magic]} of llm.c")
    if magic != LLMC_MAGIC:
        if size % 2:
            raise InputError(f"{path}: expected uint16 tokens, got {size} bytes")
        return TokenFile(path, 0, size // 2)
    if version != LLMC_VERSION:
        raise InputError(
            f"{path}: expected version {LLMC_VERSION} of llm.c's token files, got {version}"
        )
    return TokenFile(path, LLMC_HEADER_BYTES, count)


def _open_npy(path: Path, head: bytes) -> TokenFile:
    file = io.BytesIO(head)
    try:
        with warnings.catch_warnings(action="ignore"):  # files by Python 2 are readable
            read_header = NPY_HEADER_READERS[np.lib.format.read_magic(file)]
            shape, _, dtype = read_header(file)
        count = int(np.int64(math.prod(shape)))
    except Exception:  # for a damaged header numpy raises almost anything
        raise InputError(f"{path}: expected a whole .npy file of uint16 tokens") from None
    if dtype != np.uint16 or len(shape) != 1:
        raise InputError(
            f"{path}: expected uint16 tokens in one dimension, "
            f"got {dtype.name} ({dtype.str}) in {len(shape)}"
        )
    return TokenFile(path, file.tell(), count)
