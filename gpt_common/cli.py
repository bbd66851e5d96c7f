"""The command line of both twins: options in, one line out where something is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from gpt_common.errors import InputError, NonFiniteError

T = TypeVar("T")


def parse(
    options: type[T],
    prog: str,
    args: Sequence[str] | None = None,
    default: T | None = None,
) -> T:
    """Return `options`, a dataclass, filled from the command line over its own or other defaults.

    The docstring of the class opens the help; underscores and dashes both work. `--help` exits with
    code 0; raises `InputError` for arguments that do not parse.
    """
    boxes = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxes):
            return tyro.cli(
                options,
                prog=prog,
                args=args,
                default=tyro.MISSING_NONPROP if default is None else default,
                use_underscores=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_first_sentence(boxes.getvalue())} (--help lists the flags)") from None


def _first_sentence(box: str) -> str:
    """Return the text between the top of tyro's error box and its first rule, as one line."""
    rows = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]
    cells = [row.strip("│╭╮╰╯ ") for row in rows]
    end = next((i for i, cell in enumerate(cells) if set(cell) <= {"─"}), len(cells))
    return " ".join(cells[:end]).removesuffix(".")


def run(main: Callable[[], None]) -> None:
    """Call `main` and exit as a command does: one line on standard error where it fails.

    Exit codes: 2 for wrong input, 1 for a run that diverged, 130 after Ctrl-C.
    """
    try:
        main()
        sys.stdout.flush()
    except (InputError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, `head` for one, has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        _fail(str(error), 2)
    except NonFiniteError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)


def _fail(message: str, code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


class StopSignal:
    """Turns the first Ctrl-C (or SIGTERM) into a request, which the loop reads between steps.

    A second one interrupts at once. When the block has ended, the process exits with 128 plus the
    number of the signal: 130 for Ctrl-C.
    """

    def __init__(self) -> None:
        self._number = 0

    def received(self) -> bool:
        """Whether there has been a signal."""
        return self._number != 0

    def __enter__(self) -> StopSignal:
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        self._restore()
        if self._number and kind is None:
            sys.exit(128 + self._number)

    def _handle(self, number: int, frame: object) -> None:
        self._number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
