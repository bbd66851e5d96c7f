"""Lines of Python as HTML: three kinds of words are styled, and differences are marked."""

from collections.abc import Iterable
from html import escape
from itertools import pairwise

from pygments.lexers import PythonLexer
from pygments.token import Comment, Keyword, String, _TokenType

from docs._twins.align import Span

KINDS = ((Comment, "c"), (String, "s"), (Keyword, "k"))

Words = list[tuple[str, str]]  # the class of a word, or "", and its text


def highlight(source: str) -> list[Words]:
    """Return the words of each line of a file."""
    lines: list[Words] = [[]]
    for token, text in PythonLexer(stripnl=False).get_tokens(source):
        first, *others = text.split("\n")
        lines[-1].append((_kind(token), first))
        lines += [[(_kind(token), part)] for part in others]
    return lines


def _kind(token: _TokenType) -> str:
    return next((name for parent, name in KINDS if token in parent), "")


def line_html(words: Words, marked: Iterable[Span] = ()) -> str:
    """Return a line with `<mark>` around the marked spans."""
    marks, at, parts = list(marked), 0, []
    for kind, text in words:
        for start, end, inside in _cut(at, at + len(text), marks):
            parts.append(_span(text[start - at : end - at], kind, inside))
        at += len(text)
    return "".join(parts).replace("</mark><mark>", "")


def _cut(start: int, end: int, marks: list[Span]) -> list[tuple[int, int, bool]]:
    """Return the pieces of a word that are wholly inside or outside of the marks."""
    edges = {start, end} | {edge for mark in marks for edge in mark if start < edge < end}
    ordered = sorted(edges)
    return [
        (a, b, any(mark.start <= a and b <= mark.end for mark in marks))
        for a, b in pairwise(ordered)
    ]


def _span(text: str, kind: str, inside: bool) -> str:
    html = escape(text, quote=False)
    if kind and text.strip():
        html = f"<i class={kind}>{html}</i>"
    return f"<mark>{html}</mark>" if inside else html
