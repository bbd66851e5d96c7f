"""A run that is killed at any instant, or finds the disk full, loses no more than unsaved steps."""

import itertools
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gpt_common import storage
from gpt_common.checkpoint import Checkpoint, read_checkpoint
from gpt_common.config import GPTConfig, OutputOptions, TrainConfig
from gpt_common.data import BatchLoader
from gpt_common.distributed import Processes
from gpt_common.errors import InputError
from gpt_common.lock import FolderLock
from gpt_common.metrics import RunLog, read_log
from gpt_common.run import Run
from gpt_common.run_folder import run_checkpoints
from gpt_common.storage import clean_folder
from gpt_common.weights import LazyArray
from tests.conftest import TINY, assert_one_line_error, command, random_weights

ROOT = Path(__file__).parent.parent
FILES = ("model.safetensors", "optimizer.safetensors")

# A model that saves in no time, for a death at each instant of a save.
MODEL = GPTConfig(n_layer=1, n_head=1, n_embd=2, block_size=2, vocab_size=3)
KILLED = 9
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink"}


def open_run(folder, keep_last=0):
    """A run that goes on in its folder, as `start_run` opens it, but without a model's data."""
    folder.mkdir(exist_ok=True)
    output = OutputOptions(out_dir=str(folder), resume=str(folder), keep_last=keep_last)
    run = Run(
        config=TrainConfig(output=output),
        framework="torch",
        start=Checkpoint(MODEL, random_weights(MODEL)),
        train_loader=BatchLoader(np.zeros(9, np.uint16), 1, 2),
        val_loader=None,
        folder=folder,
        lock=FolderLock(folder),
        processes=Processes(),
    )
    clean_folder(folder)
    run.log = RunLog(run.folder, 0, 9, 2, 1)
    return run


def save(run, step, seed):
    tensors = (random_weights(MODEL, seed + i) for i in range(3))
    run.save(
        step,
        *({n: LazyArray(w.shape, w.dtype, w.view) for n, w in each.items()} for each in tensors),
        optimizer_step=step,
    )
    run.lock.release()


def contents(path):
    """All that a save brings to the disk, to be compared bit for bit; None where there is none."""
    try:
        checkpoint = read_checkpoint(path)
    except InputError:
        return None
    state = checkpoint.training
    weights = (checkpoint.weights, state.exp_avg, state.exp_avg_sq)
    return state.step, [{k: w.tobytes() for k, w in part.items()} for part in weights]


def die_at(instant):
    """End this process, as SIGKILL does, just before its `instant`-th change to the disk."""
    count = itertools.count()

    def tick():
        if next(count) == instant:
            os._exit(KILLED)

    def watch(event, args):
        if event in CHANGES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            tick()

    def write_and_tick(file, array):
        write_array(file, array)
        file.flush()  # so that half a file is on the disk
        tick()

    write_array = storage.write_array
    storage.write_array = write_and_tick
    os.fsync = lambda descriptor: tick()
    sys.addaudithook(watch)


def die_at_every_instant(folder, step, seed, keep_last):
    """Copy the run `folder/before` for each instant of a save, and die there in a child process."""
    for instant in itertools.count():
        copy = shutil.copytree(folder / "before", folder / f"{instant:03d}", symlinks=True)
        if (child := os.fork()) == 0:
            run = open_run(copy, keep_last)
            die_at(instant)
            save(run, step, seed)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != KILLED:
            sys.exit(code)


@pytest.mark.parametrize(
    ("before", "step", "keep_last"),
    [((), 1, 0), ((1,), 2, 0), ((1, 2), 2, 0), ((1, 2), 3, 1)],
    ids=["first", "next", "again", "keep_last"],
)
def test_a_crash_at_any_instant_leaves_the_old_or_the_new_checkpoint(
    before, step, keep_last, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug
    run = open_run(tmp_path / "before")
    run.lock.release()
    for earlier in before:
        save(run, earlier, seed=earlier)
    code = f"from tests import test_crash as t; t.die_at_every_instant(t.Path({str(tmp_path)!r}), "
    subprocess.run([sys.executable, "-c", code + f"{step}, 50, {keep_last})"], check=True, cwd=ROOT)
    old, (*crashed, last) = contents(run.folder), sorted(tmp_path.glob("[0-9]*"))
    new = contents(last)
    assert old != new
    found = [contents(folder) for folder in crashed]
    turn = found.index(new)
    assert 0 < turn < len(found)
    assert found == [old] * turn + [new] * (len(found) - turn)
    assert any(list(folder.glob(".*")) for folder in crashed)
    for folder in crashed:
        for visible in folder.glob("step_*"):
            assert contents(visible), visible
        save(open_run(folder, keep_last), 4, seed=70)
        assert contents(folder)[0] == 4
        assert not list(folder.glob(".*"))
        # With --keep_last 1 the one before stays until the newest has proved itself.
        assert keep_last == 0 or len(run_checkpoints(folder)) == 2


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_bits(first, second):
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_save_that_fails_keeps_the_last_checkpoint(call, train, framework, tmp_path):
    run = tmp_path / "run"
    train("torch", *TINY, "--steps", 1, "--out_dir", run)
    before = contents(run)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))  # the moments are 3.2 MB
    try:
        result = call(f"gpt_{framework}.train", "--resume", run, "--steps", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_one_line_error(result, "File too large", "run/step_000002")
    assert names(run) == ["latest", "log.jsonl", "step_000001"]
    assert contents(run) == before


def can_mount():
    unshare = ["unshare", "--map-root-user", "--mount", "true"]
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(unshare, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="may not mount a disk of its own")
def test_a_full_disk(framework, tmp_path):
    """A second checkpoint of 6 MB is too much for a disk of 9, which vanishes with its process."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = """
    mount -t tmpfs -o size=9m tmpfs "$1" || exit 99
    shift; "$@"; code=$?
    cp -a "$DISK/run" "$KEPT"; exit $code
    """
    python = (sys.executable, "-m", f"gpt_{framework}.train")
    args = (*TINY, "--steps", 5, "--checkpoint_every", 1, "--out_dir", disk / "run")
    result = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
        + [str(a) for a in (disk, *python, *args)],
        capture_output=True,
        text=True,
        env=os.environ | {"DISK": str(disk), "KEPT": str(kept)},
    )
    assert_one_line_error(result, "No space left on device", "run/step_000002")
    assert names(kept) == ["latest", "log.jsonl", "step_000001"]
    assert contents(kept)[0] == 1


def test_keep_last(train, tmp_path):
    flags = ("--checkpoint_every", 1, "--keep_last", 3, "--out_dir", tmp_path)
    train("torch", *TINY, *flags, "--steps", 4)
    assert names(tmp_path) == ["latest", "log.jsonl", *(f"step_00000{i}" for i in (2, 3, 4))]
    output = train("torch", "--resume", tmp_path, "--steps", 6, "--keep_last", 2)
    assert "changed keep_last: 3 -> 2" in output
    assert names(tmp_path) == ["latest", "log.jsonl", "step_000005", "step_000006"]


def test_a_run_that_goes_back_does_the_later_steps_again(train, framework, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(framework, *TINY, "--steps", 6, "--checkpoint_every", 2, "--out_dir", whole)
    shutil.copytree(whole, run, symlinks=True)
    train(framework, "--resume", run / "step_000002", "--steps", 3)
    assert (run / "latest").readlink() == Path("step_000003")
    assert [e["step"] for e in read_log(run / "log.jsonl") if "loss" in e] == [0, 1, 2]
    for later in ("step_000004", "step_000006"):  # overwritten below, or the comparison fails
        (run / later / "model.safetensors").write_bytes(b"")
    train(framework, "--resume", run, "--steps", 6)
    assert (run / "latest").readlink() == Path("step_000006")
    for step in ("step_000004", "step_000006"):
        assert_same_bits(run / step, whole / step)
    first, second = ([e["loss"] for e in read_log(r / "log.jsonl") if "loss" in e]
                     for r in (run, whole))  # fmt: skip
    assert first == second
    assert not list(run.glob(".*"))


def test_a_run_without_latest_is_resumed_and_not_overwritten(call, train, tmp_path):
    run = tmp_path / "run"
    train("torch", *TINY, "--steps", 1, "--out_dir", run)
    (run / "latest").unlink()
    result = call("gpt_torch.train", *TINY, "--steps", 1, "--out_dir", run)
    assert_one_line_error(result, "holds a run already")
    assert f"resumed {run} after step 1" in train("torch", "--resume", run, "--steps", 2)
    assert contents(run)[0] == 2


def test_damage_is_one_line(call, train, framework, tmp_path):
    train("torch", *TINY, "--steps", 1, "--out_dir", tmp_path)
    for name in reversed(FILES):
        path = tmp_path / "step_000001" / name
        content = path.read_bytes()
        path.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
        result = call(f"gpt_{framework}.train", "--resume", tmp_path, "--steps", 2)
        assert_one_line_error(result, f"step_000001/{name}: expected checksum")
    result = call(f"gpt_{framework}.generate", "--init", tmp_path)
    assert_one_line_error(result, "step_000001/model.safetensors: expected checksum")


KILLS = 25  # of each twin
STEPS = 4 * KILLS


def live(framework, args, run, random):
    """Train in a process of its own; kill it near the start or a save, half the time inside one."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"gpt_{framework}.train", *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    moments = (line for line in process.stdout if line.startswith((framework, "saved")))
    for _ in itertools.islice(moments, random.integers(1, 4)):
        pass
    if random.integers(2):
        while not any(run.glob(".*")) and process.poll() is None:
            time.sleep(0.001)
    time.sleep(random.uniform(0, 0.03))
    process.kill()
    process.communicate()
    return process.returncode


@pytest.mark.slow
def test_killed_again_and_again_a_run_comes_out_the_same(framework, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    result = command(f"gpt_{framework}.train", *TINY, "--steps", STEPS, "--out_dir", whole)
    assert result.returncode == 0, result.stderr
    every = (*TINY, "--steps", STEPS, "--checkpoint_every", 1, "--keep_last", 2, "--out_dir", run)
    random, inside = np.random.default_rng(0), 0
    for _ in range(KILLS):
        args = ("--resume", run) if run_checkpoints(run) else every
        assert live(framework, args, run, random) == -9
        inside += bool(list(run.glob(".*")))
    reached = read_checkpoint(run).training.step
    result = command(f"gpt_{framework}.train", "--resume", run)
    assert result.returncode == 0, result.stderr
    print(f"{framework}: {KILLS} kills in {reached} steps, {inside} inside a save")
    assert inside > KILLS / 4
    assert_same_bits(run / "latest", whole / "latest")
    assert names(run) == ["latest", "log.jsonl", *(f"step_{STEPS - i:06d}" for i in (1, 0))]
