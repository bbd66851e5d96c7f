"""What every command does with signals and streams, whatever it computes."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from gpt_common import cli, startup
from gpt_common.checkpoint import write_checkpoint
from gpt_common.errors import InputError
from gpt_common.run_folder import step_folder
from tests.conftest import assert_one_line_error, random_checkpoint


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


def test_notes_are_told_apart_from_what_a_command_returns(capsys):
    cli.print_notes(("one thing", "another"))
    assert capsys.readouterr() == ("", "note: one thing\nnote: another\n")


@pytest.mark.parametrize("module", ["gpt_torch.generate", "gpt_flax.generate", "convert.verify"])
def test_a_command_tells_what_was_noted_of_its_checkpoint(
    call, module, odd_config, tmp_path, monkeypatch
):
    """Here that the newest of a run is damaged; the command goes no further."""

    def told(notes):
        raise InputError(notes[0])

    for step in (1, 2):
        write_checkpoint(step_folder(tmp_path, step), random_checkpoint(odd_config, step))
    (step_folder(tmp_path, 2) / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(cli, "print_notes", told)
    args = (tmp_path,) if module == "convert.verify" else ("--init", tmp_path)
    assert_one_line_error(call(module, *args), "skipped a damaged checkpoint", "step_000002")
