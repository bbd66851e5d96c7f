import itertools
import json
import re
import time

import pytest

from gpt_common import metrics
from gpt_common.errors import NonFiniteError
from gpt_common.metrics import RunLog, read_log


class Slow:
    """A metric that is still being computed."""

    def __init__(self, value):
        self.value = value
        self.read = False

    def __float__(self):
        self.read = True
        time.sleep(0.01)
        return self.value


@pytest.mark.parametrize("asynchronous", [True, False])
def test_where_the_device_works_by_itself_a_step_is_read_when_the_next_is_under_way(
    tmp_path, asynchronous
):
    with RunLog(tmp_path, 0, 10, 64, 1, asynchronous) as log:
        first, second = ({"loss": Slow(1.5), "grad_norm": Slow(2.0)} for _ in range(2))
        log.step(0, 0.1, first)
        assert first["loss"].read is not asynchronous
        log.step(1, 0.1, second)
        assert first["loss"].read
        assert second["loss"].read is not asynchronous
        log.flush()
        assert second["loss"].read
    entries = read_log(tmp_path / "log.jsonl")
    assert [e["step"] for e in entries] == [0, 1]
    assert entries[0]["loss"] == 1.5
    assert entries[0]["grad_norm"] == 2
    assert entries[0]["learning_rate"] == 0.1
    assert entries[1]["tokens_per_second"] == pytest.approx(64 / entries[1]["seconds"])


@pytest.mark.parametrize("bad", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_the_run(tmp_path, bad, value):
    with RunLog(tmp_path, 0, 10, 64, 1) as log, pytest.raises(NonFiniteError, match="step 4"):
        log.step(4, 0.1, {"loss": 1.0, "grad_norm": 1.0} | {bad: value})


def test_a_resumed_log_forgets_what_is_done_again(tmp_path):
    path = tmp_path / "log.jsonl"
    entries = [{"step": step, "loss": 1.0} for step in range(6)]
    entries.insert(4, {"step": 4, "val_loss": 2.0})
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    path.write_text(text + '{"step": 6, "lo')  # cut off by a crash
    with RunLog(tmp_path, 4, 10, 64, 1):
        pass
    assert read_log(path) == entries[:5]


def test_a_resumed_log_is_on_the_disk_before_the_first_step(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n')
    with RunLog(tmp_path, 1, 10, 64, 1):
        assert read_log(path) == [{"step": 0, "loss": 1.0}]


def test_a_text_with_brackets_is_printed_as_it_is(tmp_path, capsys):
    with RunLog(tmp_path, 0, 10, 64, 1) as log:
        log.samples(3, ["[Exit.] :smile: [/b] ROMEO."])
    assert "> [Exit.] :smile: [/b] ROMEO.\n" in capsys.readouterr().out


def test_console_shows_every_so_many_steps_and_the_last(tmp_path, capsys):
    with RunLog(tmp_path, 0, 8, 64, 3) as log:
        for step in range(8):
            log.step(step, 0.1, {"loss": 1.0, "grad_norm": 1.0})
        log.flush()
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in lines] == [0, 3, 6, 7]
    assert len(read_log(tmp_path / "log.jsonl")) == 8


def test_a_line_of_the_console(tmp_path, capsys, monkeypatch):
    now = itertools.count()
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now) / 8)
    with RunLog(tmp_path, 0, 17, 64, 1) as log:
        log.step(0, 0.3, {"loss": 1.5, "grad_norm": 2.25})
    assert capsys.readouterr().out == (
        "step     0 | loss  1.500000 | norm  2.250 | lr 3.0e-01 | 512 tok/s | eta 2s\n"
    )


def test_a_line_and_an_entry_of_a_gpu(tmp_path, capsys, monkeypatch):
    """Half of the data sheet's FLOP/s, and the most memory so far."""
    clock = iter((0.0, 2.0))
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    known = {"seconds_at_peak": 1.0, "peak_memory": lambda: 29_400_000_000}
    with RunLog(tmp_path, 0, 19_073, 524_288, 1, **known) as log:
        log.step(0, 3e-4, {"loss": 10.873854, "grad_norm": 53.565})
    assert capsys.readouterr().out == (
        "step     0 | loss 10.87385 | norm 53.56 | 262k tok/s | mfu 50% | 29GB | eta 11h\n"
    )
    (entry,) = read_log(tmp_path / "log.jsonl")
    assert entry == {
        "step": 0, "loss": 10.873854, "grad_norm": 53.565, "learning_rate": 3e-4, "seconds": 2.0,
        "tokens_per_second": 262_144, "mfu": 0.5, "peak_memory": 29_400_000_000,
        "eta": 2.0 * 19_072,
    }  # fmt: skip


def test_the_time_left_is_by_all_steps_but_the_first_which_compiles(tmp_path, monkeypatch):
    clock = iter((0.0, 60.0, 62.0, 66.0))
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    with RunLog(tmp_path, 4, 10, 64, 1) as log:
        for step in (4, 5, 6):
            log.step(step, 0.1, {"loss": 1.0, "grad_norm": 1.0})
    assert [e["eta"] for e in read_log(tmp_path / "log.jsonl")] == [60 * 5, 2 * 4, 3 * 3]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (99.4, "99s"), (99.6, "2m"), (5940, "99m"), (6000, "2h"), (40_000, "11h"),
     (360_000, "4d")],
)  # fmt: skip
def test_a_time_has_two_digits(seconds, shown):
    assert metrics.rounded_time(seconds) == shown


def test_a_terminal_shows_how_far_a_run_is(tmp_path, capsys, monkeypatch):
    """A resumed one begins where it was."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with RunLog(tmp_path, 5, 8, 64, 1):
        pass
    assert "5/8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokens_per_step", "seconds"), [(128, 1.0464), (16_384, 0.0655), (524_288, 2.18)]
)
def test_a_step_fits_eighty_columns(tmp_path, capsys, monkeypatch, tokens_per_step, seconds):
    """On a laptop, a GPU at GPT-2's own context, and with batches accumulated to half a million."""
    clock = iter((0.0, seconds))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    with RunLog(tmp_path, 0, 20_000, tokens_per_step, 1) as log:
        log.step(12_345, 3e-4, {"loss": 10.873854, "grad_norm": 53.565})
    line = capsys.readouterr().out.removesuffix("\n")
    assert line.startswith("step 12345 | loss 10.873854 | norm 53.565 | lr 3.0e-04 | ")
    assert re.search(r" tok/s \| eta \d+[smhd]$", line)
    assert len(line) <= 80


@pytest.mark.parametrize(("memory", "seconds"), [(141e9, 0.5), (29e9, 20.0), (None, 2.0)])
def test_a_step_of_a_gpu_fits_eighty_columns(tmp_path, capsys, monkeypatch, memory, seconds):
    clock = iter((0.0, seconds))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    known = {"seconds_at_peak": 0.4 * seconds, "peak_memory": lambda: memory}
    with RunLog(tmp_path, 0, 20_000, 2**18, 1, **known) as log:
        log.step(12_345, 3e-4, {"loss": 10.873854, "grad_norm": 53.565})
    line = capsys.readouterr().out.removesuffix("\n")
    assert " | mfu 40%" in line
    assert ("GB | eta" in line) == (memory is not None)
    assert len(line) <= 80
