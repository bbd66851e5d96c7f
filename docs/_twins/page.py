"""The page of one file of the twins, as HTML."""

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

from docs._twins import breaks, strips
from docs._twins.columns import Columns, Sides
from docs._twins.figures import Change, Differences, Effects, Parity, Planted
from docs._twins.notes import NOTES, Note
from docs._twins.pairs import Pair, pairs
from docs._twins.shapes import MEANINGS
from docs._twins.text import FRAMEWORKS, prose
from docs._twins.words import Word, first_uses, vocabulary
from gpt_common.errors import InputError

LEGEND = """
<dl class="legend simple">
<div><dt><span class="same">grey line</span></dt><dd>the same as the line beside it, where
<code>Tensor</code> is Flax's <code>Array</code></dd></div>
<div><dt><mark>marked</mark></dt><dd>words that differ</dd></div>
<div><dt><span class="text">green</span></dt><dd>strings and comments</dd></div>
<div><dt><span class="gap">grey band</span></dt><dd>no such line in this twin</dd></div>
<div><dt>↪</dt><dd>the line above goes on</dd></div>
{more}</dl>
"""
NOTE = """
<div><dt><span class="mark">1</span></dt><dd>they must differ here: why is below the code</dd></div>
"""
BOLT = """
<div><dt><span class="bolt torch">⚡</span> <span class="bolt flax">⚡</span></dt>
<dd>break this line, in <span class="torch">PyTorch</span> or in <span class="flax">Flax</span>,
and see what happens</dd></div>
"""
REFERENCE = """
<div><dt>the reference</dt><dd>a third GPT-2, written in numpy and computed in float64: the charts
show how far the twins are from it</dd></div>
"""
SHAPES = """
<div><dt><code>(B, T)</code></dt><dd>the shape of the line's value, of its first if it has several:
{names}; where the twins differ,
<span class="torch">PyTorch's</span> and <span class="flax">Flax's</span></dd></div>
"""


@dataclass(frozen=True)
class TwinPage:
    """What the page of a file is made of."""

    file: str
    sides: Sides
    parity: Parity
    effects: Effects
    all_notes: tuple[Note, ...] = NOTES

    @cached_property
    def pairs(self) -> list[Pair]:
        """The parts of the file."""
        return pairs(self.sides["torch"].source, self.sides["flax"].source)

    @cached_property
    def changes(self) -> list[tuple[Planted, Change]]:
        """The faults of this file, and the lines that each changes."""
        return [
            (fault, fault.change(self.sides[fault.framework].source))
            for fault in self.effects.faults
            if Path(fault.file).name == self.file
        ]

    @cached_property
    def names(self) -> set[str]:
        """The names of the parts."""
        return {pair.name for pair in self.pairs}

    def html(self) -> str:
        """Return the page below its title. Raises `ValueError` where something does not fit."""
        self._check_names()
        sections = "".join(map(self._section, self.pairs))
        bar = f'<div class="bar">{_toolbar(self.changes)}{self._heads()}</div>'
        return (
            f'<div class="twin-page" style="--shape:{self._longest_shape}">{self._legend()}{bar}'
            f"{sections}{self._breaks()}{self._measured()}</div>"
        )

    @cached_property
    def dimensions(self) -> set[str]:
        """The names of dimensions in the gutter."""
        return self.sides["torch"].dimensions | self.sides["flax"].dimensions

    @property
    def _longest_shape(self) -> int:
        """The characters of a shape for which the gutter has room."""
        return max(
            (len(s) for side in self.sides.values() for s in side.shapes.values()), default=0
        )

    def _legend(self) -> str:
        used = [name for name in MEANINGS if name in self.dimensions]
        names = ", ".join(f"<code>{name}</code> {MEANINGS[name]}" for name in used)
        shapes = SHAPES.format(names=names) if names else ""
        notes = NOTE if any(map(self._notes, self.names)) else ""
        bolt = BOLT if self.changes else ""
        reference = REFERENCE if self.changes or any(map(self._strip, self.names)) else ""
        return LEGEND.format(more=notes + bolt + shapes + reference)

    def _heads(self) -> str:
        """Return the headings of the columns, which stay in sight."""
        torch, flax = (
            f'<div class="{framework}"><b>{name}</b> <code>gpt_{framework}/{self.file}</code></div>'
            for framework, name in FRAMEWORKS.items()
        )
        shape = "<div>shape</div>" if self.dimensions else "<div></div>"
        return f'<div class="heads">{torch}{shape}{flax}</div>'

    def _check_names(self) -> None:
        used = {note.place for note in self.all_notes} | set(self.parity.functions)
        here = {place.partition("::")[2] for place in used if place.startswith(f"{self.file}::")}
        if here - self.names:
            raise InputError(f"expected functions of {self.file}, got {sorted(here - self.names)}")

    def _section(self, pair: Pair) -> str:
        code = Columns(pair, self.sides, self._notes(pair.name), self.changes).html()
        heading = _heading(pair) if pair.is_definition else ""
        words = vocabulary(self.words.get(pair.name, []))
        strip = self._strip(pair.name)
        return f'<section id="{pair.name}"{_only(pair)}>{heading}{code}{words}{strip}</section>'

    def _notes(self, name: str) -> list[Note]:
        return [note for note in self.all_notes if note.place == f"{self.file}::{name}"]

    @cached_property
    def words(self) -> dict[str, list[Word]]:
        """The words of JAX that each part is the first to use, by its name."""
        code = self.sides["flax"].code
        parts = {pair.name: pair.flax for pair in self.pairs if pair.flax}
        return first_uses(
            {n: "\n".join(code[p.start - 1 : p.start - 1 + len(p.lines)]) for n, p in parts.items()}
        )

    def _strip(self, name: str) -> str:
        if f"{name}.forward" in self.names:
            return ""  # a class is shown below the method that calls it
        for key in (name, name.removesuffix(".forward")):
            if found := self._measured_of(key):
                return strips.figure(key, found)
        return ""

    def _measured_of(self, name: str) -> Differences | None:
        return self.parity.functions.get(f"{self.file}::{name}")

    def _breaks(self) -> str:
        if not self.changes:
            return ""
        here = "".join(f"<li>{breaks.link(fault)}</li>" for fault, _ in self.changes)
        articles = "".join(self._break(fault, change) for fault, change in self.changes)
        return (
            f'<section id="break-it"><h2>Break it</h2><ul>{here}</ul>{articles}'
            f"<p>In other files:</p><ul>{self._elsewhere()}</ul></section>"
        )

    def _elsewhere(self) -> str:
        other = [f for f in self.effects.faults if Path(f.file).name != self.file]
        links = (breaks.link(f, f"{Path(f.file).stem}.html") for f in other)
        return "".join(f"<li>{link}</li>" for link in links)

    def _break(self, fault: Planted, change: Change) -> str:
        section = self._section_of(fault.framework, change.line)
        return breaks.article(fault, change, section, self.effects)

    def _section_of(self, framework: str, line: int) -> str:
        for pair in self.pairs:
            part = pair.torch if framework == "torch" else pair.flax
            if part and 0 <= line - part.start < len(part.lines):
                return pair.name
        raise InputError(f"expected line {line} in a function of {self.file}")

    def _measured(self) -> str:
        return (
            f'<section id="measured"><h2>Measured</h2><p>{prose(self.parity.model)} '
            f"{escape(self.parity.measured_on)}.</p><p>Faults: {prose(self.effects.model)} "
            f"{escape(self.effects.measured_on)}.</p></section>"
        )


def _toolbar(changes: list[tuple[Planted, Change]]) -> str:
    options = "".join(
        f'<option value="break-{fault.id}">{escape(fault.name)} '
        f"({FRAMEWORKS[fault.framework]})</option>"
        for fault, _ in changes
    )
    buttons = "".join(
        f'<button type="button" data-show="{framework}">{name}</button>'
        for framework, name in FRAMEWORKS.items()
    )
    chooser = (
        '<label>Break it <select id="chooser"><option value="">nothing is broken</option>'
        f'{options}</select></label><button type="button" id="mend" hidden>Mend it</button>'
    )
    switch = f'<div class="switch" role="group" aria-label="Framework">{buttons}</div>'
    return f'<div class="toolbar">{chooser if options else ""}{switch}</div>'


def _only(pair: Pair) -> str:
    """Return the attribute of a section that one twin does not have."""
    if pair.torch and pair.flax:
        return ""
    return f' class="only-{"torch" if pair.torch else "flax"}"'


def _heading(pair: Pair) -> str:
    level = 3 if "." in pair.name else 2
    own, other = (part.name.rpartition(".")[2] if part else "" for part in (pair.torch, pair.flax))
    both = f" / {other}" if own and other and own != other else ""
    only = "" if own and other else f" (only in {'PyTorch' if own else 'Flax'})"
    return (
        f'<h{level}><a class="permalink" href="#{pair.name}"><code>{pair.name}{both}</code>{only}'
        f"</a></h{level}>"
    )
