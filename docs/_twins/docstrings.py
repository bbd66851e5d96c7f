"""Docstrings are Markdown with `code`; Sphinx reads reStructuredText."""

import re
from itertools import groupby

SPECIAL = re.compile(r"[*|\\]|(?<=\w)_\b|^\((?=\w\))", re.MULTILINE)


def to_rst(line: str) -> str:
    """Return a line as reStructuredText: the same text, `code` as code."""
    parts = line.split("`")
    return "``".join(
        part if i % 2 else SPECIAL.sub(lambda found: f"\\{found[0]}", part)
        for i, part in enumerate(parts)
    )


def with_tables(lines: list[str]) -> list[str]:
    """Return a docstring as reStructuredText, its tables as they are."""
    found: list[str] = []
    for is_table, group in groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            found += ["::", "", *(f"    {line}" for line in group), ""]
        else:
            found += map(to_rst, group)
    return found


def process_docstring(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Change a docstring's lines in place, as `autodoc-process-docstring` expects."""
    lines[:] = with_tables(lines)
