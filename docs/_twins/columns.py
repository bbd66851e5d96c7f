"""One part of a file in both twins: two columns of code, and the gutter between them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape

from docs._twins.align import Span, align, differences, is_same
from docs._twins.code import Words, highlight, line_html
from docs._twins.figures import Change, Planted
from docs._twins.notes import Note
from docs._twins.pairs import Pair, Part
from docs._twins.shapes import Shapes
from docs._twins.text import FRAMEWORKS, prose
from gpt_common.errors import InputError


@dataclass(frozen=True)
class Side:
    """One twin's file: its source, and the shapes of its lines."""

    framework: str
    source: str
    shapes: Shapes

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the source."""
        return self.source.splitlines()

    @cached_property
    def words(self) -> list[Words]:
        """The words of each line."""
        return highlight(self.source)

    @cached_property
    def code(self) -> list[str]:
        """The lines without their strings and comments."""
        return ["".join(text for kind, text in w if kind not in ("s", "c")) for w in self.words]

    @property
    def dimensions(self) -> set[str]:
        """The names of dimensions in the shapes, and `()` if a line has a scalar."""
        return set(re.findall(r"(?:padded )?[A-Za-z]+|\(\)", " ".join(self.shapes.values())))


Sides = Mapping[str, Side]  # by framework
Numbers = dict[str, int]  # of the lines in a row, by framework


@dataclass(frozen=True)
class Columns:
    """A part, and what is said of its lines."""

    pair: Pair
    sides: Sides
    all_notes: list[Note]
    changes: list[tuple[Planted, Change]]

    @cached_property
    def rows(self) -> list[Numbers]:
        """The lines that are side by side, from top to bottom."""
        rows = align(*map(_lines, (self.pair.torch, self.pair.flax)))
        return [_numbers(self.pair, i, j) for i, j in rows]

    @cached_property
    def notes(self) -> list[Note]:
        """The notes in the order of their lines, so that their numbers follow each other."""
        return sorted(self.all_notes, key=self._first_row)

    def _first_row(self, note: Note) -> int:
        return next(i for i, numbers in enumerate(self.rows) if self._is_on(note, numbers))

    def html(self) -> str:
        """Return the columns, and the notes below. Raises `InputError` if a note has no line."""
        columns = zip(*map(self._row, self.rows), strict=True)
        torch, gutter, flax = ("".join(column) for column in columns)
        return (
            f'<div class="twins" style="--rows:{len(self.rows)}">'
            f'{_column("torch", self.pair.torch, torch)}<div class="gutter">{gutter}</div>'
            f"{_column('flax', self.pair.flax, flax)}</div>{self._notes()}"
        )

    def _row(self, numbers: Numbers) -> tuple[str, str, str]:
        texts = {f: self.sides[f].lines[number - 1] for f, number in numbers.items()}
        same, marks = False, {"torch": list[Span](), "flax": list[Span]()}
        if len(texts) == 2:
            same = is_same(texts["torch"], texts["flax"])
            marks["torch"], marks["flax"] = differences(texts["torch"], texts["flax"])
        torch, flax = (
            self._line(f, numbers[f], [] if same else marks[f], same)
            if f in numbers
            else "<span></span>"
            for f in ("torch", "flax")
        )
        return torch, self._gutter(numbers), flax

    def _line(self, framework: str, number: int, marks: list[Span], same: bool) -> str:
        side = self.sides[framework]
        text = side.lines[number - 1]
        indent = len(text) - len(text.lstrip())
        return (
            f'<span id="{framework}-{number}" style="--i:{indent}"'
            f"{' class=same' if same else ''}>{line_html(side.words[number - 1], marks)}\n</span>"
        )

    def _gutter(self, numbers: Numbers) -> str:
        shapes = {f: self.sides[f].shapes.get(number, "") for f, number in numbers.items()}
        marks = self._note_marks(numbers) + self._fault_marks(numbers)
        only = f' class="only-{next(iter(numbers))}"' if len(numbers) == 1 else ""
        return f"<span{only}><span>{marks}</span><span>{_shapes(shapes)}</span></span>"

    def _note_marks(self, numbers: Numbers) -> str:
        return "".join(
            f'<a class="mark" href="#{_note_id(note)}" title="{escape(note.title)}">{n}</a>'
            for n, note in enumerate(self.notes, 1)
            if self._is_on(note, numbers)
        )

    def _is_on(self, note: Note, numbers: Numbers) -> bool:
        return any(numbers.get(f) == number for f, number in self._lines_of(note).items())

    def _lines_of(self, note: Note) -> Numbers:
        sides = (("torch", self.pair.torch, note.torch), ("flax", self.pair.flax, note.flax))
        return {framework: _find(part, text) for framework, part, text in sides if text}

    def _fault_marks(self, numbers: Numbers) -> str:
        return "".join(
            f'<a class="bolt {fault.framework}" href="#break-{fault.id}" '
            f'title="{_action(fault)}" aria-label="{_action(fault)}">⚡</a>'
            for fault, change in self.changes
            if numbers.get(fault.framework) == change.line
        )

    def _notes(self) -> str:
        items = "".join(
            f'<li id="{_note_id(note)}"><b>{escape(note.title)}</b>: {prose(note.why)}</li>'
            for note in self.notes
        )
        return f'<ol class="notes">{items}</ol>' if items else ""


def _column(framework: str, part: Part | None, lines: str) -> str:
    """Return a column, which counts its lines from that before the part."""
    start = part.start - 1 if part else 0
    return f'<pre class="{framework}" style="--start:{start}"><code>{lines}</code></pre>'


def _lines(part: Part | None) -> tuple[str, ...]:
    return part.lines if part else ()


def _numbers(pair: Pair, i: int | None, j: int | None) -> Numbers:
    sides = (("torch", pair.torch, i), ("flax", pair.flax, j))
    return {f: part.start + k for f, part, k in sides if part is not None and k is not None}


def _find(part: Part | None, text: str) -> int:
    """Return the number of the line that has a note's text."""
    found = [i for i, line in enumerate(_lines(part)) if text in line]
    if part is None or len(found) != 1:
        raise InputError(f"expected {text!r} once in {part and part.name}, got {len(found)}")
    return part.start + found[0]


def _shapes(shapes: dict[str, str]) -> str:
    """Return the shapes of a row: one if the twins have the same."""
    if shapes.get("torch") == shapes.get("flax"):
        return f'<span class="shape">{shapes["torch"]}</span>'
    return "".join(
        f'<span class="shape {framework}">{shape}</span>' for framework, shape in shapes.items()
    )


def _action(fault: Planted) -> str:
    return f"Break it: {escape(fault.name)} ({FRAMEWORKS[fault.framework]})"


def _note_id(note: Note) -> str:
    return f"{note.place.partition('::')[2]}-{note.title}".replace(" ", "-").replace(",", "")
