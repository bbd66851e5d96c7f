"""Faults of what a user does at a terminal: commands ended, hostile states of runs."""

from tests.faults.fault import Fault

CLI, CONFIG = "gpt_common/cli.py", "gpt_common/config.py"

FAULTS = (
    Fault(
        "SIGTERM does not end a command that is no run",
        CLI,
        "signal.default_int_handler if is_ctrl_c else _end",
        "signal.default_int_handler if is_ctrl_c else signal.SIG_IGN",
    ),
    Fault(
        "SIGTERM is taken for the parser's exit",
        CLI,
        "raise Ended(number)",
        "sys.exit(128 + number)",
    ),
    Fault(
        "a signal is raised after the command too",
        CLI,
        "        for number in taken:\n            signal.signal(number, signal.SIG_DFL)",
        "        pass",
    ),
    Fault(
        "a full disk and Ctrl-C are errors of torch's",
        "gpt_common/formats/torch_files.py",
        "raise error.__context__ or error from None",
        "raise error",
    ),
    Fault(
        "a run's whole number stays one where a float is due",
        CONFIG,
        "float(v) if hints[n] is float else v",
        "v",
    ),
    Fault(
        "a state's object may be anything",
        "gpt_common/checkpoint.py",
        "if not isinstance(value, dict):",
        "if value is None:",
    ),
    Fault(
        "Ctrl-C in the imports of a benchmark is a traceback",
        "benchmarks/__init__.py",
        'prepare("benchmarks")\n',
        "",
    ),
)
