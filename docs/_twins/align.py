"""Which line of one twin is beside which of the other, and the words in which they differ."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

MIN_SIMILARITY = 0.4  # of two lines that are shown side by side
WORD = re.compile(r"\w+|\s+|[^\w\s]")
SAME_WORD = {"Tensor": "Array"}  # a difference of names that says nothing


class Row(NamedTuple):
    """The indices of two lines side by side; None where a twin has no such line."""

    torch: int | None
    flax: int | None


def align(ours: Sequence[str], theirs: Sequence[str]) -> list[Row]:
    """Return the rows that put the most similar lines side by side, in order.

    Needleman & Wunsch 1970, without a penalty for gaps.
    """
    similar = [[similarity(a, b) for b in theirs] for a in ours]
    best = [[0.0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i in reversed(range(len(ours))):
        for j in reversed(range(len(theirs))):
            together = similar[i][j] + best[i + 1][j + 1] if similar[i][j] else -1.0
            best[i][j] = max(together, best[i + 1][j], best[i][j + 1])
    return _fill(_trace(best, similar))


def _trace(best: list[list[float]], similar: list[list[float]]) -> list[Row]:
    rows, i, j = [], 0, 0
    while i < len(similar) or j < len(best[0]) - 1:
        if _together(best, similar, i, j):
            rows.append(Row(i, j))
            i, j = i + 1, j + 1
        elif j == len(best[0]) - 1 or (i < len(similar) and best[i][j] == best[i + 1][j]):
            rows.append(Row(i, None))
            i += 1
        else:
            rows.append(Row(None, j))
            j += 1
    return rows


def _together(best: list[list[float]], similar: list[list[float]], i: int, j: int) -> bool:
    if i == len(similar) or j == len(best[0]) - 1 or not similar[i][j]:
        return False
    return best[i][j] == similar[i][j] + best[i + 1][j + 1]


def _fill(rows: list[Row]) -> list[Row]:
    """Put lines that have no partner beside each other where they follow each other."""
    filled: list[Row] = []
    left: list[Row] = []
    right: list[Row] = []
    for row in [*rows, Row(-1, -1)]:
        if row.flax is None:
            left.append(row)
        elif row.torch is None:
            right.append(row)
        else:
            both = min(len(left), len(right))
            filled += [Row(a.torch, b.flax) for a, b in zip(left, right, strict=False)]
            filled += [*left[both:], *right[both:], row]
            left, right = [], []
    return filled[:-1]


def similarity(a: str, b: str) -> float:
    """Return how much of two lines is the same, from 0 to 1; 0 below `MIN_SIMILARITY`."""
    if is_same(a, b):
        return 1.0 if a.strip() else 0.5  # empty lines decide nothing
    ratio = SequenceMatcher(None, _words(a), _words(b), autojunk=False).ratio()
    return ratio if ratio >= MIN_SIMILARITY else 0.0


def is_same(a: str, b: str) -> bool:
    """Return whether two lines say the same."""
    return _words(a) == _words(b)


def _words(line: str) -> list[str]:
    return [word for word in _all_words(line) if not word.isspace()]


def _all_words(line: str) -> list[str]:
    return [SAME_WORD.get(word, word) for word in WORD.findall(line)]


class Span(NamedTuple):
    """Columns `start` to `end` of a line."""

    start: int
    end: int


def differences(a: str, b: str) -> tuple[list[Span], list[Span]]:
    """Return the spans of words in which two lines differ, leading spaces aside."""
    ours, theirs = WORD.findall(a), WORD.findall(b)
    matcher = SequenceMatcher(None, _all_words(a), _all_words(b), autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if _counts(ours, block)]
    return (
        _complement(ours, [(block.a, block.size) for block in blocks]),
        _complement(theirs, [(block.b, block.size) for block in blocks]),
    )


def _counts(words: list[str], block: tuple[int, int, int]) -> bool:
    """Return whether a common block has a word: punctuation alone is noise in a difference."""
    start, _, size = block
    at_an_edge = start == 0 or start + size == len(words)
    return at_an_edge or any(re.match(r"\w", word) for word in words[start : start + size])


def _complement(words: list[str], same: list[tuple[int, int]]) -> list[Span]:
    ends = [0]
    for word in words:
        ends.append(ends[-1] + len(word))
    spans, at = [], 0
    for start, size in [*same, (len(words), 0)]:
        spans.append(_trimmed("".join(words), ends[at], ends[start]))
        at = start + size
    return [span for span in spans if span.start < span.end]


def _trimmed(line: str, start: int, end: int) -> Span:
    while start < end and line[start].isspace():
        start += 1
    while start < end and line[end - 1].isspace():
        end -= 1
    return Span(start, end)
