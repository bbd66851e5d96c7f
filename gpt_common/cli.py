"""The command line of both twins: parsing, one-line errors, signals, closed pipes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO, TypeVar

import tyro

from gpt_common.errors import InputError, NonFiniteError, PeerError

T = TypeVar("T")

typed_as: str | None = None  # the command that usage names, if it is not `python -m MODULE`
MAX_ERROR_LENGTH = 500  # characters
# Packages that may not be installed, by module, with what to pass to pip.
OPTIONAL = {name: name for name in ("torch", "jax", "flax", "optax", "transformers")}
OPTIONAL |= {name: name for name in ("tensorboardX", "wandb", "trackio")}
OPTIONAL |= {"jax": "jax flax optax", "orbax": "orbax-checkpoint"} | dict.fromkeys(
    ("datasets", "pyarrow"), "datasets pyarrow"
)
# Sent by Ctrl-C, `kill`, a closed terminal, and schedulers before the time limit.
STOP_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2),
)
# In the messages of torch, XLA, numpy and C++.
OUT_OF_MEMORY = re.compile(
    r"not enough memory|out of memory|RESOURCE_EXHAUSTED|bad_alloc|Unable to allocate", re.I
)


class Terminated(BaseException):
    """A signal asks the process to end. Not a `SystemExit`, which the parser raises too."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def parse(
    options: type[T], command: str, args: Sequence[str] | None = None, default: T | None = None
) -> T:
    """Return an instance of the dataclass `options` with the command line's flags over `default`.

    `command` is the module that `python -m` runs; flags may have underscores or dashes. `--help`
    exits with code 0. Raises `InputError` for invalid arguments.
    """
    boxes = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxes):
            return tyro.cli(
                options,
                prog=typed_as or f"python -m {command}",
                args=args,
                default=tyro.MISSING_NONPROP if default is None else default,
                use_underscores=True,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_first_sentence(boxes.getvalue())} (--help lists the flags)") from None


def _first_sentence(box: str) -> str:
    """Return the error in tyro's box, and the flags that it suggests, as one line."""
    rows = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]
    sections: list[list[str]] = [[]]
    for cell in (row.strip("│╭╮╰╯ ") for row in rows):
        if cell and set(cell) <= {"─", "-"}:  # a rule; in ASCII another one follows the title
            sections.append([])
        elif cell:
            sections[-1].append(cell)
    error, *others = (section for section in sections if section)
    sentence, *_ = " ".join(error).split(" Got errors:")  # of each type of a union
    suggestions = [
        cell.split()[0]
        for section in others
        if section[0].startswith("Perhaps you meant")
        for cell in section
        if cell.startswith("--")
    ]
    meant = f": perhaps you meant {' or '.join(suggestions)}" if suggestions else ""
    return sentence.removesuffix(".") + meant


def run(main: Callable[[], T], smaller: str = "the model") -> T:
    """Return what `main` returns; an error is one line on standard error and an exit code.

    The code is 2 for invalid input or too little memory (`smaller` names what to reduce), 1 for a
    run that diverged, 128 plus its number for a signal (Ctrl-C: 130), and 141 for a closed pipe.
    """
    _prepare_streams()
    with _signals_raise():
        return _run(main, smaller)


def _run(main: Callable[[], T], smaller: str) -> T:
    try:
        result = main()
        sys.stdout.flush()
        return result
    except BrokenPipeError:  # by a reader such as `head`
        _discard(sys.stdout)
        sys.exit(128 + signal.SIGPIPE)
    except PeerError:
        sys.exit(2)
    except (InputError, OSError) as error:
        _fail(str(error), 2)
    except NonFiniteError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    except Terminated as signalled:
        sys.exit(128 + signalled.number)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL:
            raise
        _fail(f"this needs {package}: pip install {OPTIONAL[package]}", 2)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _fail(f"out of memory: make {smaller} smaller ({_first_line(error)})", 2)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Make signals that would end the process raise, so that temporary files are removed.

    Outside of this context they end it: during Python's imports and exit nothing should raise.
    """
    default = [n for n in STOP_SIGNALS if signal.getsignal(n) is signal.SIG_DFL]
    for number in default:
        is_ctrl_c = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_ctrl_c else _terminate)
    try:
        yield
    finally:
        for number in default:
            signal.signal(number, signal.SIG_DFL)


def _terminate(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # if a library swallows the exception, the next one ends
    raise Terminated(number)


def _prepare_streams() -> None:
    """Open closed standard streams; print a `?` for what the terminal cannot encode."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # as in a daemon
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard(stream: TextIO) -> None:
    """Redirect a broken stream to /dev/null.

    Otherwise Python flushes its buffer at exit, and exits with code 120.
    """
    with contextlib.suppress(OSError, ValueError):  # a stream without a file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_out_of_memory(error: Exception) -> bool:
    # By its message: the frameworks are not imported here, and XLA's error is a RuntimeError.
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(str(error)))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _fail(message: str, code: int) -> NoReturn:
    """Print an error as one line, without control characters, and exit."""
    words = " ".join(message.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    if len(line) > MAX_ERROR_LENGTH:
        line = line[: MAX_ERROR_LENGTH - 3] + "..."
    try:
        print(f"error: {line}", file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _discard(sys.stdout)
    sys.exit(code)


def summary(framework: str, device: str, dtype: str, parameters: int) -> str:
    """Return the line that says what computes."""
    return f"{framework} on {device}, {dtype} | {parameters:,} parameters"


def print_notes(notes: Sequence[str]) -> None:
    """Print what a user should know, such as the notes of a checkpoint, on standard error."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


class Stdout:
    """Standard output that never raises: a run continues if a terminal hangs up or a disk is full.

    `pipe_closed` is set when it is a pipe whose reader has exited.
    """

    def __init__(self) -> None:
        self.pipe_closed = False

    def write(self, text: str) -> None:
        """Write text; do nothing if standard output is lost."""
        self._attempt(lambda: sys.stdout.write(text))

    def flush(self) -> None:
        """Flush the buffer."""
        self._attempt(sys.stdout.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.pipe_closed |= isinstance(error, BrokenPipeError)
            _discard(sys.stdout)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


class StopSignal:
    """Context in which a signal only sets `received()`; at its end the process exits.

    The exit code is 128 plus the number of the signal. A signal that is ignored, as by nohup, stays
    ignored. Ctrl-C after a first signal interrupts immediately.
    """

    def __init__(self) -> None:
        self.number = 0  # of the first signal; 0 without one
        self._previous: dict[int, Any] = {}

    def received(self) -> bool:
        """Whether a signal has been received."""
        return self.number != 0

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python allows handlers in the main thread only
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self._previous = {n: h for n, h in handlers.items() if h is not signal.SIG_IGN}
        for number in self._previous:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.number and kind is None:
            sys.exit(128 + self.number)

    def _handle(self, number: int, frame: object) -> None:
        self.number = self.number or number
        if signal.SIGINT in self._previous:
            signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
