"""How far work has come that reads or encodes much data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextmanager
def progress(work: str, size: int, large: int) -> Iterator[Callable[[int], object]]:
    """Yield a function that takes the bytes done since its last call, of `size` in all.

    From `large` bytes on it shows on standard error: a bar on a terminal, elsewhere one line. The
    size decides, and not a clock, so that the same command always says the same.
    """
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
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
