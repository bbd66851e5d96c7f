"""A run goes on after it has stopped: elsewhere, or by itself after one of its processes died."""

import json
import os
import random
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from gpt_common.checkpoint import read_checkpoint
from gpt_common.metrics import read_log
from tests.conftest import FRAMEWORKS
from tests.parallel.launch import SECONDS, torchrun
from tests.parallel.test_parallel import FLOAT64_LOSS, FSDP, OPTIONS, assert_same, launch
from tests.parity.tolerances import LIMITS, training_differences
from tests.parity.twins import read_training

SHORT = ("--block_size", "16", "--eval_every", "0", "--sample_every", "0")
SEQ_LEN, BATCH, WINDOWS, STEPS = 16, 3 * 4, 50, 9  # of OPTIONS, but for the last two
KINDS = {"in_order": (), "shuffled": ("--shuffle",)}
KILLS, KILLED_STEPS = 10, 40


def assert_as_twins_agree(run, other):
    """Steps in one framework that follow steps in the other agree as the twins do."""
    limits = replace(LIMITS["float64"], first_losses=FLOAT64_LOSS, losses=FLOAT64_LOSS)
    differences = training_differences(read_training(run), read_training(other))
    for quantity, found in differences.items():
        assert all(each <= getattr(limits, quantity) for each in found.values()), quantity
    ours, theirs = (read_checkpoint(folder).training for folder in (run, other))
    assert ours.loader == theirs.loader


@pytest.mark.parametrize(
    "path",
    [
        ((2, "torch", 1), (1, "flax", 2), (1, "torch", 1)),
        pytest.param(((2, "torch", 1), (1, "flax", 1), (4, "torch", 1)), marks=pytest.mark.slow),
        pytest.param(((2, "flax", 1), (1, "torch", 1), (4, "flax", 1)), marks=pytest.mark.slow),
    ],
    ids=lambda path: "-".join(f"{twin}_{size * devices}" for size, twin, devices in path),
)
def test_a_run_moves_between_frameworks_and_numbers_of_processes(path, tmp_path):
    """Its steps get the windows of the undisturbed run, in order, and compute the same of them."""
    data = tmp_path / "tokens.npy"
    np.save(data, np.arange(WINDOWS * SEQ_LEN + 1, dtype=np.uint16))

    def runs(folder):
        options = (*OPTIONS, *SHORT, "--data", data, "--val_fraction", 0)
        return [
            (*options, *kind, "--out_dir", tmp_path / folder / name) for name, kind in KINDS.items()
        ]

    undisturbed = [(*run, "--steps", STEPS) for run in runs("undisturbed")]
    record(1, "torch", 1, undisturbed, tmp_path / "0")
    resumed = [("--resume", tmp_path / "moved" / name) for name in KINDS]
    parts = zip(path, (runs("moved"), resumed, resumed), (2, 5, STEPS), strict=True)
    for number, (place, started, steps) in enumerate(parts, start=1):
        run = [(*args, *FSDP, "--steps", steps) for args in started]
        record(*place, run, tmp_path / str(number))
    for name in KINDS:
        expected = windows([tmp_path / "0"], name)
        assert windows([tmp_path / str(part) for part in (1, 2, 3)], name) == expected
        assert_epochs(expected, name == "shuffled")
        assert_as_twins_agree(tmp_path / "moved" / name, tmp_path / "undisturbed" / name)


def record(size, twin, devices, runs, folder):
    """Launch runs whose processes write the batches that `train_step` gets."""
    folder.mkdir()
    for launched in [runs] if size == 1 else [[run] for run in runs]:  # which connect once
        launch(size, twin, launched, RECORD=str(folder), JAX_NUM_CPU_DEVICES=str(devices))


def windows(folders, run):
    """The numbers of the windows that the steps of a run got, in order; each must be whole."""
    rows = np.concatenate([joined(folder, run) for folder in folders])  # (steps, 2, A, B, T)
    first = rows[:, 0, ..., 0]
    x = first[..., None] + np.arange(SEQ_LEN)
    np.testing.assert_array_equal(rows, np.stack([x, x + 1], axis=1))
    assert not (first % SEQ_LEN).any()
    return (first // SEQ_LEN).ravel().tolist()


def joined(folder, run):
    """The batches of all processes that `folder` has of a run."""
    return np.concatenate([np.load(file) for file in sorted(folder.glob(f"{run}-*.npy"))], axis=3)


def assert_epochs(found, shuffled):
    """More than two epochs; in order, each of as many windows as fill whole batches."""
    assert len(found) == STEPS * BATCH > 2 * WINDOWS
    if not shuffled:
        assert found == [n % (WINDOWS - WINDOWS % 4) for n in range(len(found))]
        return
    epochs = found[:WINDOWS], found[WINDOWS : 2 * WINDOWS]
    assert [sorted(epoch) for epoch in epochs] == [list(range(WINDOWS))] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_with_ten_kills_ends_as_without(framework, tmp_path):
    """One of four processes, at a random step; torchrun starts all again, and they resume."""
    options = (*OPTIONS, *SHORT, "--steps", KILLED_STEPS, "--checkpoint_every", 3)
    launch(4, framework, [(*options, "--out_dir", tmp_path / "undisturbed")])
    run, pids = tmp_path / "run", tmp_path / "pids"
    pids.mkdir()
    args = [str(arg) for arg in (*options, "--resume", "auto", "--out_dir", run)]
    randomly = random.Random(1)
    steps = sorted(randomly.sample(range(1, KILLED_STEPS - 5), KILLS))
    module = ("tests.parallel.runs", framework, json.dumps([args]))
    with torchrun(4, KILLS, *module, PIDS=str(pids)) as launcher:
        for step in steps:
            wait_until(lambda step=step: last_step(run) >= step, launcher)
            killed = processes(pids)
            os.kill(killed[randomly.randrange(4)], signal.SIGKILL)
            wait_until(lambda killed=killed: not {*killed} & {*processes(pids)}, launcher)
        assert launcher.wait() == 0
    assert_same(run, tmp_path / "undisturbed")


def processes(folder):
    """The numbers of the four processes, as the files of their ranks say."""
    files = [folder / str(rank) for rank in range(4)]
    return [int(file.read_text() or 0) if file.exists() else 0 for file in files]


def last_step(run):
    log = run / "log.jsonl"
    return max((entry["step"] for entry in read_log(log)), default=0) if log.exists() else 0


def wait_until(condition, launcher):
    end = time.monotonic() + SECONDS
    while not condition():
        assert launcher.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
