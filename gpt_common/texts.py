"""Texts as tokens, encoded once: the tokens are kept in the cache under the hash of the text."""

import hashlib
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from gpt_common import tokenizer
from gpt_common.cache import cache_folder
from gpt_common.errors import InputError
from gpt_common.progress import progress
from gpt_common.storage import atomic_file
from gpt_common.token_files import file_size, open_tokens

TINY_SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINY_SHAKESPEARE_BYTES = 1_115_394
SILENT_SECONDS = 30  # that a server may take before it says more

LARGE_HASH = 1 << 30  # bytes; two seconds or less where the processor has no SHA-256 of its own


def bundled_shakespeare() -> npt.NDArray[np.uint16]:
    """Return the tokens of Shakespeare's works as the package has them."""
    text_file = resources.files("gpt_common") / "assets" / "shakespeare.txt"
    return encode_cached(text_file.read_bytes())


def tiny_shakespeare() -> npt.NDArray[np.uint16]:
    """Return the tokens of tiny Shakespeare, which is downloaded to the cache on first use.

    Raises `InputError`, with the way to place it by hand, where it cannot be downloaded.
    """
    path = cache_folder() / "tinyshakespeare.txt"
    kept = path.exists()
    content = read_text(path) if kept else _download(TINY_SHAKESPEARE_URL, path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != TINY_SHAKESPEARE_SHA256:
        source = path if kept else TINY_SHAKESPEARE_URL
        raise InputError(f"{source}: expected sha256 {TINY_SHAKESPEARE_SHA256}, got {digest}")
    if not kept:
        _keep(path, lambda file: file.write(content))
    return encode_cached(content)


def _download(url: str, path: Path) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=SILENT_SECONDS) as response:
            return response.read(TINY_SHAKESPEARE_BYTES + 1)
    except (OSError, HTTPException) as error:
        raise InputError(
            f"tiny_shakespeare: no download from {url} ({error}); "
            f"fetch it by hand and save it as {path}, or name any copy with --data"
        ) from None


def encode_files(paths: Sequence[Path]) -> npt.NDArray[np.uint16]:
    """Return the tokens of UTF-8 texts, with the end-of-text token between one and the next.

    Raises `InputError` for an empty text, one that is not UTF-8, or more than memory holds.
    """
    try:
        return encode_cached(tokenizer.END_OF_TEXT.encode().join(map(read_text, paths)))
    except MemoryError:
        size = sum(map(file_size, paths))
        raise InputError(
            f"{paths[0]}: expected text that fits in memory, got {size:,} bytes; "
            "encode it in parts, to .npy files of uint16 tokens"
        ) from None


def read_text(path: Path) -> bytes:
    """Return the content of a text file. Raises `InputError` unless it is UTF-8 and not empty."""
    if not file_size(path):
        raise InputError(f"{path}: expected text, got an empty file")
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, got byte 0x{content[error.start]:02x} "
            f"at position {error.start}"
        ) from None
    return content


def encode_cached(content: bytes) -> npt.NDArray[np.uint16]:
    """Return the tokens of a UTF-8 text, from the cache where it has been encoded before."""
    kept = cache_folder() / f"{_hash(content)}.npy"
    try:
        return open_tokens(kept)[:]
    except (OSError, InputError):  # not there yet, or damaged: encode
        pass
    tokens = tokenizer.encode_corpus(content.decode("utf-8"))
    _keep(kept, lambda file: np.save(file, tokens))
    return tokens


def _keep(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file to the cache, whole; where the disk will not have it, go on without."""
    try:
        with atomic_file(path) as part, part.open("wb") as file:
            write(file)
    except OSError:
        pass


def _hash(content: bytes) -> str:
    digest = hashlib.sha256()
    size, step = len(content), 1 << 24
    with progress("hashing text", size, LARGE_HASH) as advance:
        for start in range(0, size, step):
            digest.update(memoryview(content)[start : start + step])
            advance(step)
    return digest.hexdigest()
