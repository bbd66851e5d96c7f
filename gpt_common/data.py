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
from numpy.lib.stride_tricks import sliding_window_view

from gpt_common import texts
from gpt_common.errors import InputError
from gpt_common.shards import check_folder
from gpt_common.shuffle import shuffled
from gpt_common.token_files import SUFFIXES, open_tokens

Batch = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]

# Words in the names of a folder's files, not parts of words such as `interval`.
TRAINING = re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.IGNORECASE)
VALIDATION = re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.IGNORECASE)

CORPORA = {"shakespeare": texts.bundled_shakespeare, "tiny_shakespeare": texts.tiny_shakespeare}

UINT16_SIZE = 1 << 16
CHECKED_TOKENS = 1 << 24  # in memory at a time
CHECKED_AT_START = 1 << 29  # tokens; 1 GiB, two seconds from a disk of 500 MB/s
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


@dataclass(frozen=True)
class CheckedTokens:
    """Tokens of which every slice is checked: jax would silently clamp those past the vocabulary.

    A slice raises `InputError` for them.
    """

    tokens: Tokens
    vocab_size: int
    source: str

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: slice, /) -> npt.NDArray[np.uint16]:
        window = self.tokens[index]
        if window.max(initial=0) >= self.vocab_size:
            first = int(np.argmax(window >= self.vocab_size))
            position = index.indices(len(self))[0] + first
            raise InputError(
                f"{self.source}: expected tokens below vocab_size {self.vocab_size}, "
                f"got {window[first]} at position {position}"
            )
        return window


class BatchLoader:
    """Reads batches `(x, y)` of windows of the tokens; `y` is `x` shifted by one token.

    Window `w` is `seq_len + 1` tokens from `w * seq_len` on. A batch is the next `batch_size`
    windows: in order, as in the lecture, from the first again after the last whole batch; or, with
    a `seed`, each epoch shuffled anew, and then a batch may end one epoch and begin the next.

    `batch_size` is that of all processes together, and `rows`, by default all, are the rows of each
    batch that this process reads. The batches, and the position, do not depend on them. Raises
    `InputError` if there are too few tokens for one batch.
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        seq_len: int,
        rows: range | None = None,
        seed: int | None = None,
    ) -> None:
        self.tokens = tokens
        self.seq_len = seq_len
        self.rows = range(batch_size) if rows is None else rows
        self.seed = seed
        self.stride = batch_size * seq_len
        self.position = 0
        if len(tokens) < self.stride + 1:
            raise InputError(
                f"too few tokens for one batch: expected at least {self.stride + 1} "
                f"(batch_size {batch_size} x seq_len {seq_len} + 1), got {len(tokens)}"
            )

    def next_batch(self) -> Batch:
        """Return the batch at the current position, int32 `(rows, seq_len)` each, and advance."""
        windows = self._windows() if self.seed is None else self._shuffled_windows(self.seed)
        x, y = windows[:, :-1].astype(np.int32), windows[:, 1:].astype(np.int32)
        self._move_to(self.position + self.stride)
        return x, y

    def next_batches(self, count: int) -> Batch:
        """Return the next `count` batches, stacked: `(x, y)`, each `(count, rows, seq_len)`."""
        xs, ys = zip(*(self.next_batch() for _ in range(count)), strict=True)
        return np.stack(xs), np.stack(ys)

    def state(self) -> dict[str, int]:
        """Return the position, the same for all processes, as JSON values.

        It is the number of tokens that were read: in order, since the first one was last read;
        shuffled, since the start of the first epoch.
        """
        return {"position": self.position}

    def accepts(self, state: dict[str, int]) -> bool:
        """Whether the position of `state` is in the tokens, or, shuffled, in any epoch."""
        return 0 <= state["position"] and (
            self.seed is not None or state["position"] < len(self.tokens)
        )

    def restore(self, state: dict[str, int]) -> None:
        """Set the position that `state()` returned. Raises `InputError` if it is out of range."""
        if not self.accepts(state):
            raise InputError(
                f"expected a position below {len(self.tokens)}, got {state['position']}"
            )
        self._move_to(state["position"])

    def _windows(self) -> npt.NDArray[np.uint16]:
        """Return the windows of `rows` from the current position on, `(rows, seq_len + 1)`."""
        start = self.position + self.rows.start * self.seq_len
        tokens = self.tokens[start : start + len(self.rows) * self.seq_len + 1]
        return sliding_window_view(tokens, self.seq_len + 1)[:: self.seq_len]

    def _shuffled_windows(self, seed: int) -> npt.NDArray[np.uint16]:
        T, first = self.seq_len, self.position // self.seq_len
        indices = [first + row for row in self.rows]
        starts = (T * w for w in shuffled(indices, (len(self.tokens) - 1) // T, seed))
        return np.stack([self.tokens[start : start + T + 1] for start in starts])

    def _move_to(self, position: int) -> None:
        fits = self.seed is not None or position + self.stride + 1 <= len(self.tokens)
        self.position = position if fits else 0


def load_splits(source: str, val_fraction: float, vocab_size: int) -> tuple[Tokens, Tokens]:
    """Return the training and the validation tokens of `source`.

    Validation tokens are those of a folder's files with `val` in their names, else the last
    `val_fraction` of all; for 0 there are none. Raises `InputError` if the source cannot be read or
    has a token outside the vocabulary. The tokens of a large source are checked when they are read.
    """
    train, val = open_source(source, vocab_size)
    for tokens in (train, val):
        if len(tokens) <= CHECKED_AT_START:
            read_all(tokens)
    if len(val):
        return train, TokenRange(val, 0, len(val) if val_fraction else 0)
    cut = len(train) - int(len(train) * val_fraction)
    return TokenRange(train, 0, cut), TokenRange(train, cut, len(train))


def load_tokens(source: str) -> Tokens:
    """Return all tokens of a named corpus, a text, a token file, or a folder of either.

    Raises `InputError` if there are none or they cannot be read.
    """
    return ShardedTokens(open_source(source))


def open_source(source: str, vocab_size: int = UINT16_SIZE) -> tuple[Tokens, Tokens]:
    """Return the tokens of a source, and those of a folder's validation files separately."""
    if source in CORPORA:
        return CheckedTokens(CORPORA[source](), vocab_size, source), ShardedTokens([])
    path = Path(source)
    if not source or not path.exists():
        raise InputError(f"{path}: no such file (data is {', '.join(CORPORA)} or a path)")
    train, val = folder_files(path) if path.is_dir() else ([path], [])
    return open_files(train, vocab_size), open_files(val, vocab_size)


def open_files(paths: Sequence[Path], vocab_size: int) -> Tokens:
    """Return the tokens of files, either all token files or all texts."""
    if all(path.suffix in SUFFIXES for path in paths):
        files = [CheckedTokens(open_tokens(path), vocab_size, str(path)) for path in paths]
        return ShardedTokens(files)
    text = paths[0] if len(paths) == 1 else paths[0].parent
    return CheckedTokens(texts.encode_files(paths), vocab_size, str(text))


def read_all(tokens: Tokens) -> None:
    """Read all tokens, which checks them."""
    for start in range(0, len(tokens), CHECKED_TOKENS):
        tokens[start : start + CHECKED_TOKENS]


def folder_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the training and the validation files of a folder, sorted by name.

    They are its token files, or else its texts. Raises `InputError` if there are both, or none to
    train on, or if shards are missing.
    """
    check_folder(folder)
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    token_files = [path for path in visible if path.suffix in SUFFIXES]
    text_files = [path for path in visible if path.suffix == ".txt"]
    train, val = split_by_name(token_files or text_files)
    if not (train or val):
        raise InputError(f"{folder}: expected .npy, .bin or .txt files in this folder, got none")
    if not train:
        raise InputError(f"{folder}: expected train in the name of a file, got {val[-1].name}")
    if token_files and text_files and not val:  # with a split, the text is its source
        both = f"{token_files[0].name} and {text_files[0].name}"
        raise InputError(f"{folder}: expected token files or texts in this folder, got {both}")
    return train, val


def split_by_name(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files with `train` and those with `val` in their names; without `val`, all files.

    Raises `InputError` if there is a `val` and another file has neither or both.
    """
    train = {path for path in files if TRAINING.search(path.stem)}
    val = {path for path in files if VALIDATION.search(path.stem)}
    if not val:
        return list(files), []
    for path in files:
        if (path in train) == (path in val):
            raise InputError(
                f"{path}: expected train or val in its name, as {min(val).name} has in this folder"
            )
    return sorted(train), sorted(val)


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
