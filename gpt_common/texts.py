"""Texts as tokens, which are cached under the hash of the text."""

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpt_common import tokenizer
from gpt_common.cache import cache_folder, write_cached
from gpt_common.downloads import Download
from gpt_common.errors import InputError
from gpt_common.progress import progress
from gpt_common.storage import require_file
from gpt_common.token_files import open_tokens

TINY_SHAKESPEARE = Download(
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    size=1_115_394,
    filename="tinyshakespeare.txt",
    flag="--data",
)
LARGE_HASH = 1 << 30  # bytes; at most two seconds on a processor without SHA-256 instructions


def bundled_shakespeare() -> npt.NDArray[np.uint16]:
    """Return the tokens of the packaged plays of Shakespeare."""
    text_file = resources.files("gpt_common") / "assets" / "shakespeare.txt"
    return encode_cached(text_file.read_bytes())


def tiny_shakespeare() -> npt.NDArray[np.uint16]:
    """Return the tokens of tiny Shakespeare, which is downloaded on first use."""
    return encode_cached(TINY_SHAKESPEARE.read())


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
    write_cached(cached, lambda file: np.save(file, tokens))
    return tokens


def _hash(content: bytes) -> str:
    digest = hashlib.sha256()
    size, step = len(content), 1 << 24
    with progress("hashing text", size, LARGE_HASH) as advance:
        for start in range(0, size, step):
            digest.update(memoryview(content)[start : start + step])
            advance(step)
    return digest.hexdigest()
