"""What happens to one process reaches all: signals, errors, and a process that hangs."""

import json
import os
import signal
import time

import pytest

from gpt_common.watchdog import EXIT_CODE
from tests.conftest import FRAMEWORKS, TINY
from tests.parallel.launch import Launched
from tests.test_train import entries

OPTIONS = (*TINY, "--device", "cpu", "--sample_every", 0, "--batch_size", 2)
LONG = ("--steps", 100000, "--log_every", 1000)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("evaluating", [False, True])
def test_a_signal_to_one_process_saves_and_ends_all(framework, evaluating, tmp_path):
    """At one step, also in the middle of an evaluation, which would take hours."""
    endless = ("--parallel", "fsdp", "--eval_every", 2, "--eval_steps", 10**6) if evaluating else ()
    run = tmp_path / "run"
    args = (*OPTIONS, *LONG, *endless, "--out_dir", run)
    with Launched(2, f"gpt_{framework}.train", *args) as launched:
        launched.wait_for_step(run, 1)
        time.sleep(1 if evaluating else 0)
        launched.processes[1].send_signal(signal.SIGTERM)
        assert launched.codes() == [128 + signal.SIGTERM] * 2, launched.errors
    saved = int((run / "latest").readlink().name.removeprefix("step_"))
    assert saved == max(entries(run, "loss")) + 1
    assert saved == 2 or not evaluating


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("ranks", [pytest.param("0", marks=pytest.mark.slow), "1 1"])
def test_a_signal_in_a_save_saves_the_next_step(framework, ranks, tmp_path, call):
    """In one process, or twice; the save goes on, and all stop at one step."""
    run = tmp_path / "run"
    args = (*OPTIONS, *LONG, "--parallel", "fsdp", "--checkpoint_every", 2, "--out_dir", run)
    launched = json.dumps([[str(arg) for arg in args]])
    with Launched(2, "tests.parallel.runs", framework, launched, SIGNAL_IN_SAVE=ranks) as processes:
        assert processes.codes() == [128 + signal.SIGTERM] * 2, processes.errors
    assert processes.errors == ["", ""]
    assert sorted(path.name for path in run.iterdir()) == [
        *("latest", "log.jsonl", "step_000002", "step_000003")
    ]
    result = call(f"gpt_{framework}.train", "--resume", run, "--steps", 4)
    assert f"resumed {run} after step 3" in result.stdout
    assert "damaged" not in result.stdout


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_full_disk_is_an_error_of_all_processes(framework, tmp_path):
    """After the first process has read one array of many, which all read together."""
    runs = [
        [str(arg) for arg in (*OPTIONS, "--steps", 2, "--parallel", "fsdp", "--out_dir", tmp_path)]
    ]
    with Launched(2, "tests.parallel.runs", framework, json.dumps(runs), FILL_DISK="") as launched:
        codes = launched.codes()
    assert "error: [Errno 28] No space left on device" in launched.errors[0]
    assert launched.errors[1] == ""
    assert codes == [2, 2] or framework == "flax"  # jax aborts a process that leaves the others


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_wrong_input_is_one_error(framework, tmp_path):
    """Found in the first process alone, or in all."""
    (tmp_path / "full" / "step_000001").mkdir(parents=True)
    for name in (
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "training_state.json",
    ):
        (tmp_path / "full" / "step_000001" / name).touch()
    for args, words in (
        ((*OPTIONS, "--out_dir", tmp_path / "full"), "holds a run already"),
        ((*OPTIONS, "--batch_size", 3), "batch_size: expected a multiple of 2"),
    ):
        run = json.dumps([[str(arg) for arg in args]])
        with Launched(2, "tests.parallel.runs", framework, run, REPORT_GLOO="") as launched:
            codes = launched.codes()
        assert words in launched.errors[0]
        assert launched.errors[0].count("error:") == 1
        assert "Gloo" not in launched.errors[1]
        assert codes == [2, 2] or framework == "flax", launched.errors


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_process_that_hangs_ends_the_run(framework, tmp_path):
    run = tmp_path / "run"
    args = (*OPTIONS, *LONG, "--timeout", 10, "--out_dir", run)
    with Launched(2, f"gpt_{framework}.train", *args) as launched:
        launched.wait_for_step(run, 1)
        os.kill(launched.processes[1].pid, signal.SIGSTOP)
        _, error = launched.processes[0].communicate(timeout=60)
        assert launched.processes[0].returncode == EXIT_CODE, error
        assert (
            "error: process 0 of 2: no step within 10 seconds; process 1 does not respond" in error
        )
        assert "Thread 0x" in error
