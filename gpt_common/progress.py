"""Progress of long reads and encodings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


def plain_console(file: IO[str] | None = None) -> Console:
    """Return a console, by default of standard error, without markup, highlighting or wrapping."""
    return Console(
        file=file, stderr=file is None, highlight=False, markup=False, emoji=False, soft_wrap=True
    )


@contextmanager
def progress(work: str, size: int, large: int) -> Iterator[Callable[[int], object]]:
    """Yield a function to report the number of bytes done since its last call, of `size` in total.

    For at least `large` bytes, standard error shows a bar on a terminal, elsewhere one line. It
    depends on the size, not on time, so that the output of a command is always the same.
    """
    console = plain_console()
    line = f"{work}: {size / 1e6:,.0f} MB"
    if size >= large and console.is_terminal:
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(line, total=size)
            yield lambda done: bar.advance(task, done)
        return
    if size >= large:
        console.print(line)
    yield lambda done: None
