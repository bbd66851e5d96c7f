"""The largest batch that fits a card, and the command's table."""

import json
import subprocess
import sys

import pytest

from benchmarks import memory
from benchmarks.process import WorkerError
from gpt_common.errors import InputError
from gpt_common.progress import plain_console


@pytest.mark.parametrize(
    ("gigabytes", "batch"), [(0, 0), (1.9, 7), (3, 16), (4, 24), (5, 32), (8.9, 63), (11, 64)]
)
def test_the_largest_batch_is_between_the_two_peaks_around_it(gigabytes, batch):
    peaks = {16: 3_000_000_000, 64: 9_000_000_000, 32: 5_000_000_000}
    assert memory.largest_batch(peaks, gigabytes * 1e9) == batch


def test_one_batch_size_makes_no_line():
    with pytest.raises(InputError, match="expected two batch sizes or more, got"):
        memory.MemoryConfig(batch_size=(4, 4))


def test_a_twin_that_fails_is_an_error_and_the_other_one_is_measured(monkeypatch, capsys):
    def peak_memory(framework, spec, card):
        if framework == "flax":
            raise WorkerError("no plugin")
        return 1_000_000_000 * spec.batch_size * (1 if spec.fast_ops else 2)

    monkeypatch.setattr(memory, "peak_memory", peak_memory)
    config = memory.MemoryConfig(dtype=("bfloat16",), batch_size=(1, 2), fits=(10, 1.5))
    result = memory.run(config, plain_console(file=None))
    assert [p.get("error") for p in result["programs"]] == [None, None, "no plugin", "no plugin"]
    assert [p["largest_batches"] for p in result["programs"][:2]] == [[2, 1], [2, 0]]
    memory.report.finish(result, [memory.table(result)], None)
    rows = [line.replace(" ", "") for line in capsys.readouterr().out.splitlines()]
    assert "|torch|bfloat16|yes|1.0|2.0|2+|1|" in rows
    assert "|torch|bfloat16|no|2.0|4.0|2+|0|" in rows


@pytest.mark.skipif(sys.platform != "linux", reason="needs a library that is preloaded")
def test_the_command_without_a_gpu():
    """Twice the rows need more memory, and the loss by rows less than the plain one."""
    options = ["--framework", "torch", "--dtype", "bfloat16", "--preset", "tiny"]
    sizes = ["--batch_size", "512", "1024", "--seq_len", "64"]
    command = [sys.executable, "-m", "benchmarks.memory", *options, *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fast, plain = json.loads(done.stdout.splitlines()[-1])["programs"]
    assert fast["peaks"][0] < fast["peaks"][1] < 1.2 * plain["peaks"][0] < plain["peaks"][1]
