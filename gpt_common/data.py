"""Token sources, and the loader that cuts them into batches.

Tokens are uint16, memory-mapped where they come from a file, so that a corpus larger than memory
trains as a small one does.
"""

import hashlib
import os
import tempfile
import urllib.request
from bisect import bisect_right
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gpt_common import tokenizer
from gpt_common.errors import InputError

Batch = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]

TINY_SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

LLMC_MAGIC = 20240520  # first int32 of llm.c's token files; no two GPT-2 tokens make this number
LLMC_HEADER_BYTES = 1024


class Tokens(Protocol):
    """A sequence of tokens: anything with a length whose slices are numpy arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> npt.NDArray[np.uint16]: ...


class ShardedTokens:
    """Several arrays of tokens seen as one, without copying them together."""

    def __init__(self, shards: Sequence[npt.NDArray[np.uint16]]) -> None:
        self.shards = shards
        self.starts = np.concatenate([[0], np.cumsum([len(shard) for shard in shards])]).tolist()

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: slice, /) -> npt.NDArray[np.uint16]:
        start, stop, _ = index.indices(len(self))
        first = bisect_right(self.starts, start) - 1
        parts = [np.empty(0, np.uint16)]
        for shard, offset in zip(self.shards[first:], self.starts[first:], strict=False):
            if offset >= stop:
                break
            parts.append(shard[max(0, start - offset) : stop - offset])
        return np.concatenate(parts)


class BatchLoader:
    """Walks the tokens as in the lecture and yields `(x, y)`, each int32 `(B, T)`.

    Batch `k` starts at `k * B * T` and reads `B * T + 1` tokens; `y` is `x` one token later. Where
    the next batch would run past the end, the walk goes back to the start. With several processes,
    rank `r` takes the `r`-th `B * T` of every `world_size * B * T`. Raises `InputError` where the
    tokens are too few for one batch of every process.
    """

    def __init__(
        self, tokens: Tokens, batch_size: int, seq_len: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise InputError(f"expected a rank below world_size {world_size}, got {rank}")
        self.tokens = tokens
        self.shape = (batch_size, seq_len)
        self.rank = rank
        self.stride = batch_size * seq_len * world_size
        self.position = 0
        if len(tokens) < self.stride + 1:
            raise InputError(
                f"too few tokens for one batch: expected at least {self.stride + 1} "
                f"(batch_size {batch_size} x seq_len {seq_len}"
                + (f" x {world_size} processes" if world_size > 1 else "")
                + f" + 1), got {len(tokens)}"
            )

    def next_batch(self) -> Batch:
        """Return the batch at the current position and move on."""
        size = self.shape[0] * self.shape[1]
        start = self.position + self.rank * size
        window = self.tokens[start : start + size + 1].astype(np.int32)
        self._move_to(self.position + self.stride)
        return window[:-1].reshape(self.shape), window[1:].reshape(self.shape)

    def next_batches(self, count: int) -> Batch:
        """Return the next `count` batches, stacked: each `(count, B, T)`."""
        xs, ys = zip(*(self.next_batch() for _ in range(count)), strict=True)
        return np.stack(xs), np.stack(ys)

    def state(self) -> dict[str, int]:
        """Return the place in the tokens, the same for every rank, in a form that JSON can hold."""
        return {"position": self.position}

    def restore(self, state: dict[str, int]) -> None:
        """Go back to the place that `state()` returned."""
        self._move_to(state["position"])

    def _move_to(self, position: int) -> None:
        fits = 0 <= position and position + self.stride + 1 <= len(self.tokens)
        self.position = position if fits else 0


def load_splits(source: str, val_fraction: float, vocab_size: int) -> tuple[Tokens, Tokens]:
    """Return the training and the validation tokens of `source`.

    The last `val_fraction` of the tokens is validation. Raises `InputError` where the source cannot
    be read or holds a token that the vocabulary does not.
    """
    tokens = load_tokens(source)
    check_vocabulary(tokens, vocab_size, source)
    num_val = int(len(tokens) * val_fraction)
    cut = len(tokens) - num_val
    return ShardedTokens([tokens[:cut]]), ShardedTokens([tokens[cut:]])


def load_tokens(source: str) -> Tokens:
    """Return the tokens of a named corpus, a text file, a token file or a folder of token files.

    Raises `InputError` where there is nothing to read or it cannot be read.
    """
    if source == "shakespeare":
        text_file = resources.files("gpt_common") / "assets" / "shakespeare.txt"
        return encode_bytes(text_file.read_bytes(), source)
    if source == "tiny_shakespeare":
        return encode_bytes(tiny_shakespeare().read_bytes(), source)
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npy", ".bin"))
        if not files:
            raise InputError(f"{path}: expected .npy or .bin files in this folder, got none")
        return ShardedTokens([map_tokens(file) for file in files])
    if not path.is_file():
        raise InputError(f"{path}: no such file (data is shakespeare, tiny_shakespeare or a path)")
    if path.suffix in (".npy", ".bin"):
        return map_tokens(path)
    return encode_bytes(path.read_bytes(), source)


def check_vocabulary(tokens: Tokens, vocab_size: int, source: str) -> None:
    """Raise `InputError` where a token is `vocab_size` or more: jax would clamp it in silence."""
    step = 1 << 24
    for start in range(0, len(tokens), step):
        window = tokens[start : start + step]
        if window.max() >= vocab_size:
            place = int(np.argmax(window >= vocab_size))
            raise InputError(
                f"{source}: expected tokens below vocab_size {vocab_size}, "
                f"got {window[place]} at position {start + place}"
            )


def map_tokens(path: Path) -> npt.NDArray[np.uint16]:
    """Return the uint16 tokens of a `.npy` file or a `.bin` file (raw or llm.c's), not read yet."""
    if path.suffix == ".npy":
        return _map_npy(path)
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise InputError(f"{path}: expected uint16 tokens, got {size} bytes")
    header = np.fromfile(path, np.int32, 1)
    offset = LLMC_HEADER_BYTES if header.size and header[0] == LLMC_MAGIC else 0
    if size <= offset:
        raise InputError(f"{path}: expected tokens after the header, got none")
    return np.memmap(path, np.uint16, "r", offset)


def _map_npy(path: Path) -> npt.NDArray[np.uint16]:
    try:
        tokens = np.load(path, mmap_mode="r")
    except (ValueError, EOFError):
        raise InputError(f"{path}: expected a whole .npy file of uint16 tokens") from None
    if tokens.dtype != np.uint16 or tokens.ndim != 1 or not len(tokens):
        raise InputError(
            f"{path}: expected uint16 tokens in one dimension, "
            f"got {tokens.dtype} of shape {tokens.shape}"
        )
    return tokens


def encode_bytes(content: bytes, source: str) -> npt.NDArray[np.uint16]:
    """Return the tokens of a UTF-8 text, from the cache where it has been encoded before.

    Raises `InputError` for an empty text or one that is not UTF-8.
    """
    if not content:
        raise InputError(f"{source}: expected text, got an empty file")
    cached = cache_folder() / f"{hashlib.sha256(content).hexdigest()}.npy"
    try:
        return _map_npy(cached)
    except (OSError, InputError):  # not there yet, or damaged: encode
        pass
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: expected UTF-8 text, got byte 0x{content[error.start]:02x} "
            f"at position {error.start}"
        ) from None
    tokens = tokenizer.encode_corpus(text)
    _keep(cached, tokens)
    return tokens


def cache_folder() -> Path:
    """Return the folder for tokens and downloads: GPT_TWINS_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GPT_TWINS_CACHE") or Path(base) / "gpt-twins")


def _keep(path: Path, tokens: npt.NDArray[np.uint16]) -> None:
    """Write tokens to the cache; where the disk will not have them, go on without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            np.save(file, tokens)
        os.replace(file.name, path)
    except OSError:
        pass


def tiny_shakespeare() -> Path:
    """Return the tiny Shakespeare file in the cache, downloaded on first use.

    Raises `InputError`, with the way to place it by hand, where it cannot be downloaded.
    """
    path = cache_folder() / "tinyshakespeare.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            urllib.request.urlretrieve(TINY_SHAKESPEARE_URL, partial)
        except OSError as error:
            raise InputError(
                f"tiny_shakespeare: no download from {TINY_SHAKESPEARE_URL} ({error}); "
                f"fetch it by hand and save it as {path}, or name any copy with --data"
            ) from None
        os.replace(partial, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != TINY_SHAKESPEARE_SHA256:
        raise InputError(f"{path}: expected sha256 {TINY_SHAKESPEARE_SHA256}, got {digest}")
    return path


def fingerprint(tokens: Tokens) -> dict[str, int | str]:
    """Return the length of tokens and the hash of samples of them."""
    digest = hashlib.sha256(tokens[:4096].tobytes()).hexdigest()
    return {"length": len(tokens), "hash": digest[:16]}
