"""What every command does with signals and streams, whatever it computes."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from gpt_common import cli, startup
from gpt_common.errors import InputError


def in_a_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", f"import os, signal\nfrom gpt_common import cli\n{code}"],
        capture_output=True,
        env=os.environ | environment,
    )


def test_ctrl_c_is_one_line_also_after_the_imports_left_it_to_the_system():
    code = "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    result = in_a_process(code + "cli.run(lambda: os.kill(os.getpid(), signal.SIGINT))")
    assert (result.returncode, result.stderr) == (130, b"error: interrupted\n")


def test_what_a_terminal_cannot_show_is_a_question_mark():
    code = "cli.run(lambda: (print('caf\\xe9'), open('/caf\\xe9')))"
    result = in_a_process(code, PYTHONIOENCODING="ascii")
    assert result.stdout == b"caf?\n"
    assert result.stderr == b"error: [Errno 2] No such file or directory: '/caf?'\n"
    assert result.returncode == 2


def test_a_signal_that_is_ignored_stays_so_through_the_imports(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["-m"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        startup.prepare("gpt_torch")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_after_a_run_signals_are_what_they_were():
    before = [signal.getsignal(number) for number in cli.STOP_SIGNALS]
    with cli.StopSignal():
        assert [signal.getsignal(number) for number in cli.STOP_SIGNALS] != before
    assert [signal.getsignal(number) for number in cli.STOP_SIGNALS] == before


def test_an_error_after_a_signal_is_what_is_told():
    """As of a save for which there is no room."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(InputError, match="no room"):
            fail_after(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def fail_after(number):
    with cli.StopSignal() as stop:
        os.kill(os.getpid(), number)
        assert stop.received()
        raise InputError("no room")


def test_in_another_thread_a_run_does_without_signals():
    """Python lets the main thread alone take them."""
    received = []

    def work():
        with cli.StopSignal() as stop:
            received.append(stop.received())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert received == [False]
