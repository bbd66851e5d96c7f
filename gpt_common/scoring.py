"""Log-probabilities of tokens, from a function of a twin: sums of them, and the loss of a text."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpt_common.data import Tokens
from gpt_common.errors import NonFiniteError
from gpt_common.weights import Array

# From int32 tokens and targets, both (B, T), to log p(target), (B, T), in nats.
Logprobs = Callable[[npt.NDArray[np.int32], npt.NDArray[np.int32]], Array]


class Row(NamedTuple):
    """A sequence of tokens, of which the last `scored` are predicted, from those before them."""

    tokens: Sequence[int] | npt.NDArray[np.uint16]
    scored: int

    @property
    def inputs(self) -> int:
        """The number of tokens that the model reads: all but the last."""
        return len(self.tokens) - 1


def sum_logprobs(rows: Sequence[Row], shape: tuple[int, int], logprobs: Logprobs) -> Array:
    """Return the sum of the log-probabilities of each row's scored tokens, in nats.

    A batch has the `shape` `(B, T)`, however many and long its rows are, as each shape compiles in
    jax. What pads a row is behind it, where a causal model does not look. Raises `NonFiniteError`.
    """
    x, y = (np.zeros(shape, np.int32) for _ in range(2))
    for i, row in enumerate(rows):
        x[i, : row.inputs], y[i, : row.inputs] = row.tokens[:-1], row.tokens[1:]
    found = logprobs(x, y)
    sums = [
        found[i, row.inputs - row.scored : row.inputs].sum(dtype=np.float64)
        for i, row in enumerate(rows)
    ]
    if not np.isfinite(sums).all():
        raise NonFiniteError("a log-probability is not finite: the model has diverged")
    return np.array(sums)


@dataclass(frozen=True)
class Windows:
    """Overlapping windows of `length` tokens, each `stride` tokens after the one before.

    A window predicts the token after each of its own; those that an earlier one has predicted are
    context. So every token but the first is scored once, and after the first window with at least
    `length - stride + 1` tokens of context.
    """

    tokens: Tokens
    length: int
    stride: int

    def __len__(self) -> int:
        return 1 + max(0, math.ceil((self.scored - self.length) / self.stride))

    @property
    def scored(self) -> int:
        """The number of tokens that are predicted."""
        return len(self.tokens) - 1

    def __iter__(self) -> Iterator[Row]:
        done = 1
        for start in range(0, len(self) * self.stride, self.stride):
            window = self.tokens[start : start + self.length + 1]
            end = start + len(window)
            yield Row(window, end - done)
            done = end

    def shape(self, batch_size: int) -> tuple[int, int]:
        """Return the shape of a batch; a short text needs less than `batch_size` and `length`."""
        return min(batch_size, len(self)), min(self.length, self.scored)


def mean_loss(windows: Windows, batch_size: int, logprobs: Logprobs) -> float:
    """Return the mean of -log p over the tokens that the windows predict, in nats."""
    shape = windows.shape(batch_size)
    batches = in_batches(windows, shape[0])
    total = sum(sum_logprobs(batch, shape, logprobs).sum() for batch in batches)
    return -float(total) / windows.scored


def in_batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yield the rows in lists of `size`; the last may have fewer."""
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch
