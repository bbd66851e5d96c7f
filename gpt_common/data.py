"""Sources of tokens, and the loader that yields batches of them.

Tokens are uint16 and read from their file by slice, so that a corpus may be larger than memory.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gpt_common import texts
from gpt_common.errors import InputError
from gpt_common.progress import progress
from gpt_common.token_files import SUFFIXES, open_tokens

Batch = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]

# Words in the names of a folder's files, not parts of words such as `interval`.
TRAINING = re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.IGNORECASE)
VALIDATION = re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.IGNORECASE)

CORPORA = {"shakespeare": texts.bundled_shakespeare, "tiny_shakespeare": texts.tiny_shakespeare}

CHECKED_TOKENS = 1 << 24  # in memory at a time
LARGE_CHECK = 1 << 30  # bytes; two seconds from a disk of 500 MB/s
FINGERPRINT_WINDOWS = 64
FINGERPRINT_TOKENS = 1 << 20  # per window: 128 MiB in total


class Tokens(Protocol):
    """A sequence of tokens: it has a length, and its slices are numpy arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> npt.NDArray[np.uint16]: ...


class ShardedTokens:
    """The concatenation of several sequences of tokens, without a copy."""

    def __init__(self, shards: Sequence[Tokens]) -> None:
        self.shards = shards
        self.starts = list(accumulate(map(len, shards), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: slice, /) -> npt.NDArray[np.uint16]:
        start, stop, _ = index.indices(len(self))
        number = bisect_right(self.starts, start) - 1
        parts = [np.empty(0, np.uint16)]
        while start < stop:
            offset = self.starts[number]
            parts.append(self.shards[number][start - offset : stop - offset])
            number += 1
            start = self.starts[number]
        return np.concatenate(parts)


@dataclass(frozen=True)
class TokenRange:
    """The tokens from `start` to `stop` of a sequence, without a copy."""

    tokens: Tokens
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: slice, /) -> npt.NDArray[np.uint16]:
        start, stop, _ = index.indices(len(self))
        return self.tokens[self.start + start : self.start + max(start, stop)]


class BatchLoader:
    """Reads the tokens in order, as in the lecture, in batches `(x, y)`, each int32 `(B, T)`.

    Batch `k` starts at token `k * B * T`; `y` is `x` shifted by one token. After the last whole
    batch the loader starts again. With several processes, rank `r` reads the `r`-th `B * T` of
    every `world_size * B * T` tokens. Raises `InputError` if there are too few for one batch each.
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
        """Return the batch at the current position and advance."""
        size = self.shape[0] * self.shape[1]
        start = self.position + self.rank * size
        window = self.tokens[start : start + size + 1].astype(np.int32)
        self._move_to(self.position + self.stride)
        return window[:-1].reshape(self.shape), window[1:].reshape(self.shape)

    def next_batches(self, count: int) -> Batch:
        """Return the next `count` batches, stacked: `(x, y)`, each `(count, B, T)`."""
        xs, ys = zip(*(self.next_batch() for _ in range(count)), strict=True)
        return np.stack(xs), np.stack(ys)

    def state(self) -> dict[str, int]:
        """Return the position, the same for every rank, as JSON values."""
        return {"position": self.position}

    def restore(self, state: dict[str, int]) -> None:
        """Set the position that `state()` returned. Raises `InputError` if it is out of range."""
        position = state["position"]
        if not 0 <= position < len(self.tokens):
            raise InputError(f"expected a position below {len(self.tokens)}, got {position}")
        self._move_to(position)

    def _move_to(self, position: int) -> None:
        fits = 0 <= position and position + self.stride + 1 <= len(self.tokens)
        self.position = position if fits else 0


def load_splits(source: str, val_fraction: float, vocab_size: int) -> tuple[Tokens, Tokens]:
    """Return the training and the validation tokens of `source`.

    Validation tokens are those of a folder's files with `val` in their names, else the last
    `val_fraction` of all; for 0 there are none. Raises `InputError` if the source cannot be read or
    has a token outside the vocabulary.
    """
    train, val = open_source(source)
    check_vocabulary(train, vocab_size, source)
    check_vocabulary(val, vocab_size, f"{source}: validation")
    if len(val):
        return train, TokenRange(val, 0, len(val) if val_fraction else 0)
    cut = len(train) - int(len(train) * val_fraction)
    return TokenRange(train, 0, cut), TokenRange(train, cut, len(train))


def load_tokens(source: str) -> Tokens:
    """Return all tokens of a named corpus, a text, a token file, or a folder of either.

    Raises `InputError` if there are none or they cannot be read.
    """
    return ShardedTokens(open_source(source))


def open_source(source: str) -> tuple[Tokens, Tokens]:
    """Return the tokens of a source, and those of a folder's validation files separately."""
    if source in CORPORA:
        return CORPORA[source](), ShardedTokens([])
    path = Path(source)
    if not source or not path.exists():
        raise InputError(f"{path}: no such file (data is {', '.join(CORPORA)} or a path)")
    train, val = folder_files(path) if path.is_dir() else ([path], [])
    return open_files(train), open_files(val)


def open_files(paths: Sequence[Path]) -> Tokens:
    """Return the tokens of files, either all token files or all texts."""
    if all(path.suffix in SUFFIXES for path in paths):
        return ShardedTokens([open_tokens(path) for path in paths])
    return texts.encode_files(paths)


def folder_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the training and the validation files of a folder, sorted by name.

    They are its token files, or else its texts. Raises `InputError` if there are none, or both.
    """
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    token_files = [path for path in visible if path.suffix in SUFFIXES]
    text_files = [path for path in visible if path.suffix == ".txt"]
    train, val = split_by_name(token_files or text_files)
    if not train:
        raise InputError(f"{folder}: expected .npy, .bin or .txt files in this folder, got none")
    if token_files and text_files and not val:  # with a split, the text is its source
        both = f"{token_files[0].name} and {text_files[0].name}"
        raise InputError(f"{folder}: expected token files or texts in this folder, got {both}")
    return train, val


def split_by_name(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files with `train` and with `val` in their names; without a `val`, all and none.

    Raises `InputError` if there is a `val` and another file has neither or both.
    """
    train = {path for path in files if TRAINING.search(path.stem)}
    val = {path for path in files if VALIDATION.search(path.stem)}
    if not val or len(val) == len(files):
        return list(files), []
    for path in files:
        if (path in train) == (path in val):
            raise InputError(
                f"{path}: expected train or val in its name, as {min(val).name} has in this folder"
            )
    return sorted(train), sorted(val)


def check_vocabulary(tokens: Tokens, vocab_size: int, source: str) -> None:
    """Raise `InputError` for a token of `vocab_size` or more, which jax would silently clamp."""
    with progress("checking tokens", 2 * len(tokens), LARGE_CHECK) as advance:
        for start in range(0, len(tokens), CHECKED_TOKENS):
            window = tokens[start : start + CHECKED_TOKENS]
            if window.max() >= vocab_size:
                index = int(np.argmax(window >= vocab_size))
                raise InputError(
                    f"{source}: expected tokens below vocab_size {vocab_size}, "
                    f"got {window[index]} at position {start + index}"
                )
            advance(2 * len(window))


def fingerprint(tokens: Tokens) -> dict[str, int | str]:
    """Return the number of tokens and a SHA-256, which do not depend on how they are stored.

    Of more than 64 Mi tokens, it hashes 64 evenly spaced windows, the first and the last included.
    """
    size, window = len(tokens), FINGERPRINT_TOKENS
    count = min(FINGERPRINT_WINDOWS, -(-size // window))
    digest = hashlib.sha256()
    for i in range(count):
        start = i * (size - window) // max(1, count - 1)
        digest.update(tokens[start : start + window].tobytes())
    return {"length": size, "sha256": digest.hexdigest()}
