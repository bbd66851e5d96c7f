"""Consoles, and the progress of long reads and encodings."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

TABLE_WIDTH = 80  # columns


def plain_console(file: IO[str] | None = None) -> Console:
    """Return a console, by default of standard error, without markup, highlighting or wrapping."""
    return Console(
        file=file, stderr=file is None, highlight=False, markup=False, emoji=False, soft_wrap=True
    )


def table_console() -> Console:
    """Return a plain console of standard output for tables, which are of at most 80 columns.

    On a narrower terminal rich would leave out digits, also where the output is a file's.
    """
    console = plain_console(sys.stdout)
    console.width = max(TABLE_WIDTH, console.width)
    return console


@contextmanager
def progress(work: str, size: int, large: int) -> Iterator[Callable[[int], object]]:
    """Yield a function to report the number of bytes done since its last call, of `size` in total.

    `progress_bar` shows it for at least `large` bytes. It depends on the size, not on time, so that
    the output of a command is always the same.
    """
    with progress_bar(f"{work}: {size / 1e6:,.0f} MB", size, size >= large) as advance:
        yield advance


@contextmanager
def progress_bar(line: str, total: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function to report how much was done since its last call, of `total`.

    Standard error shows a bar on a terminal, elsewhere one line.
    """
    console = plain_console()
    if show and console.is_terminal:
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(line, total=total)
            yield lambda done: bar.advance(task, done)
        return
    if show:
        console.print(line)
    yield lambda done: None
