"""What a command does before importing torch or jax, which takes seconds."""

import importlib.util
import signal
import sys


def prepare(package: str, *requirements: str) -> None:
    """Prepare `python -m package.command`; each package calls this before its other imports.

    Until `gpt_common.cli.run` installs handlers, Ctrl-C ends the process silently: torch and jax
    cannot handle a KeyboardInterrupt during their imports. If a required package is not installed,
    a command prints one line and exits with code 2; an import raises `ModuleNotFoundError`.
    """
    is_command = sys.argv[:1] == ["-m"]  # Python's value while it locates the module
    if is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    missing = [name for name in requirements if importlib.util.find_spec(name) is None]
    if not missing:
        return
    message = f"{package} needs {', '.join(missing)}: pip install {' '.join(missing)}"
    if not is_command:
        raise ModuleNotFoundError(message, name=missing[0])
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
