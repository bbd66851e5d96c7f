"""What a command does before its imports, which take seconds: torch's and jax's are large."""

import importlib.util
import signal
import sys


def prepare(package: str, *requirements: str) -> None:
    """Prepare `python -m package.command`; each package calls this before its other imports.

    Until `gpt_common.cli.run` takes over, Ctrl-C ends the process at once and quietly: torch and
    jax do not survive a KeyboardInterrupt in the middle of their imports. A framework that is not
    installed is one line and exit code 2; whoever imports the package gets a ModuleNotFoundError.
    """
    is_command = sys.argv[:1] == ["-m"]  # so Python has it while it looks for the module
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
