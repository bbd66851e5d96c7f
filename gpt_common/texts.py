"""Texts as tokens, which are cached under the hash of the text."""

import contextlib
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
from gpt_common.storage import atomic_file, require_file
from gpt_common.token_files import open_tokens

TINY_SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINY_SHAKESPEARE_BYTES = 1_115_394
TIMEOUT = 30  # seconds without data from a server
LARGE_HASH = 1 << 30  # bytes; at most two seconds on a processor without SHA-256 instructions


def bundled_shakespeare() -> npt.NDArray[np.uint16]:
    """Return the tokens of the packaged plays of Shakespeare."""
    text_file = resources.files("gpt_common") / "assets" / "shakespeare.txt"
    return encode_cached(text_file.read_bytes())


def tiny_shakespeare() -> npt.NDArray[np.uint16]:
    """Return the tokens of tiny Shakespeare, which is downloaded to the cache on first use.

    Raises `InputError`, with instructions for a manual download, if it fails.
    """
    path = cache_folder() / "tinyshakespeare.txt"
    cached = path.exists()
    content = read_text(path) if cached else _download(TINY_SHAKESPEARE_URL, path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != TINY_SHAKESPEARE_SHA256:
        source = path if cached else TINY_SHAKESPEARE_URL
        raise InputError(f"{source}: expected sha256 {TINY_SHAKESPEARE_SHA256}, got {digest}")
    if not cached:
        _write_cache(path, lambda file: file.write(content))
    return encode_cached(content)


def _download(url: str, path: Path) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return response.read(TINY_SHAKESPEARE_BYTES + 1)
    except (OSError, HTTPException) as error:
        raise InputError(
            f"tiny_shakespeare: no download from {url} ({error}); "
            f"save it as {path}, or give the path of a copy with --data"
        ) from None


def encode_files(paths: Sequence[Path]) -> npt.NDArray[np.uint16]:
    """Return the tokens of UTF-8 text files, with the end-of-text token between them.

    Raises `InputError` if a file is empty or not UTF-8, or they do not fit in memory.
    """
    try:
        return encode_cached(tokenizer.END_OF_TEXT.encode().join(map(read_text, paths)))
    except MemoryError:
        size = sum(path.stat().st_size for path in paths)
        raise InputError(
            f"{paths[0]}: expected text that fits in memory, got {size:,} bytes; "
            "encode it in parts, to .npy files of uint16 tokens"
        ) from None


def read_text(path: Path) -> bytes:
    """Return the bytes of a text file. Raises `InputError` if it is empty or not UTF-8."""
    require_file(path)
    if not path.stat().st_size:
        raise InputError(f"{path}: expected text, got an empty file")
    content = path.read_bytes()
    decode_utf8(content, str(path))
    return content


def decode_utf8(content: bytes, source: str) -> str:
    """Return text. Raises `InputError`, with `source` and the position, if it is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: expected UTF-8 text, got byte 0x{content[error.start]:02x} "
            f"at position {error.start}"
        ) from None


def encode_cached(content: bytes) -> npt.NDArray[np.uint16]:
    """Return the tokens of a UTF-8 text, from the cache if it has been encoded before."""
    cached = cache_folder() / f"{_hash(content)}.npy"
    try:
        return open_tokens(cached)[:]
    except (OSError, InputError):  # missing or damaged
        pass
    tokens = tokenizer.encode_corpus(content.decode("utf-8"))
    _write_cache(cached, lambda file: np.save(file, tokens))
    return tokens


def _write_cache(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file to the cache atomically; an error of the disk is ignored."""
    with contextlib.suppress(OSError), atomic_file(path) as part, part.open("wb") as file:
        write(file)


def _hash(content: bytes) -> str:
    digest = hashlib.sha256()
    size, step = len(content), 1 << 24
    with progress("hashing text", size, LARGE_HASH) as advance:
        for start in range(0, size, step):
            digest.update(memoryview(content)[start : start + step])
            advance(step)
    return digest.hexdigest()
