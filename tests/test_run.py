"""A run from outside: its folder, its checkpoints, its data, and whatever ends it early."""

import dataclasses
import importlib
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt_common import cli, memory, metrics, resume, run, run_folder, startup, storage
from gpt_common.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from gpt_common.config import DataOptions, TrainConfig
from gpt_common.data import BatchLoader, load_splits
from gpt_common.errors import InputError, NonFiniteError
from gpt_common.estimate import Target
from gpt_common.lock import FolderLock
from gpt_common.metrics import RunLog, read_log
from gpt_common.run_folder import run_checkpoints, step_folder, update_latest
from gpt_common.weights import LazyArray, num_parameters
from tests.conftest import (
    TINY,
    assert_one_line_error,
    random_checkpoint,
)
from tests.test_train import entries


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def tree(folder):
    """All that is in a folder, to be compared bit for bit."""
    return {
        str(p.relative_to(folder)): p.readlink() if p.is_symlink() else p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_symlink() or p.is_file()
    }


# The folder of a run, and other processes


@pytest.fixture
def two_runs(train, tmp_path):
    for name in ("mine", "other"):
        train("torch", *TINY, "--steps", 2, "--checkpoint_every", 1, "--out_dir", tmp_path / name)
    return tmp_path / "mine", tmp_path / "other"


def test_a_folder_has_one_run_at_a_time(call, framework, two_runs):
    mine, other = two_runs
    command = f"gpt_{framework}.train"
    lock = FolderLock(other)
    before = tree(other)
    for args in (
        (*TINY, "--out_dir", other),
        ("--resume", other, "--steps", 3),
        ("--resume", other, "--steps", 3, "--keep_last", 1),
        ("--resume", other / "step_000001", "--steps", 3),
        ("--resume", mine, "--steps", 3, "--out_dir", other, "--keep_last", 1),
    ):
        result = call(command, *args)
        assert_one_line_error(result, f"{other}: in use by process {os.getpid()}")
    assert tree(other) == before
    lock.release()
    assert call(command, "--resume", other, "--steps", 3).returncode == 0
    assert not list(other.glob(".*"))


def test_a_run_that_is_resumed_does_not_enter_the_folder_of_another(call, framework, two_runs):
    mine, other = two_runs
    before = tree(other)
    result = call(
        f"gpt_{framework}.train", "--resume", mine, "--steps", 3, "--out_dir", other,
        "--keep_last", 1,
    )  # fmt: skip
    assert_one_line_error(result, f"{other} holds a run already")
    assert tree(other) == before


def test_a_lock_ends_with_its_process(tmp_path):
    code = "import os, sys; from gpt_common.lock import FolderLock; "
    code += "lock = FolderLock(__import__('pathlib').Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -9
    assert (tmp_path / ".lock").exists()
    FolderLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "runs/now")
    made = [run_folder.make_folder(None, "torch") for _ in range(3)]
    assert made == [Path("runs/now"), Path("runs/now-2"), Path("runs/now-3")]


def test_a_run_begins_a_log_of_its_own(train, tmp_path):
    """In the folder of one that was killed before its first checkpoint, whose log stays."""
    (tmp_path / "log-1.jsonl").write_text('{"step": 0, "loss": 2.0}\n')  # of another one
    (tmp_path / "log.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    train("torch", *TINY, "--steps", 1, "--out_dir", tmp_path)
    logs = ["log-1.jsonl", "log-2.jsonl", "log.jsonl"]
    assert names(tmp_path) == ["latest", *logs, "step_000001"]
    assert read_log(tmp_path / "log-1.jsonl") == [{"step": 0, "loss": 2.0}]
    assert read_log(tmp_path / "log-2.jsonl") == [{"step": 0, "loss": 1.0}]


def test_a_damaged_run_is_not_overwritten(call, framework, two_runs):
    """Of which `latest` alone is left."""
    mine, _ = two_runs
    for step in (1, 2):
        (step_folder(mine, step) / "model.safetensors").unlink()
    before = tree(mine)
    result = call(f"gpt_{framework}.train", *TINY, "--steps", 1, "--out_dir", mine)
    assert_one_line_error(result, "holds a run already")
    assert tree(mine) == before


def test_a_run_goes_on_in_its_own_folder_by_whatever_name(train, framework, two_runs, monkeypatch):
    """And what a killed process left there goes."""
    mine, _ = two_runs
    monkeypatch.chdir(mine.parent)
    left = storage.temporary_path(step_folder(mine, 3))
    left.mkdir()
    train(framework, "--resume", "mine", "--out_dir", "mine", "--steps", 3)
    assert names(mine) == ["latest", "log.jsonl", *(f"step_00000{n}" for n in (1, 2, 3))]
    assert resume.stored_config("mine").optimizer.steps == 3  # of its newest checkpoint


def test_a_checkpoint_of_no_run_begins_a_folder_of_its_own(
    train, framework, odd_config, tmp_path, monkeypatch
):
    """As `convert` writes them, beside others."""
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(odd_config, vocab_size=50257)
    options = TrainConfig(data=DataOptions(batch_size=1, seq_len=8, val_fraction=0))
    for name in ("mine", "other"):
        checkpoint = random_checkpoint(config)
        training = dataclasses.replace(checkpoint.training, options=options.as_dict())
        folder = tmp_path / "models" / name
        write_checkpoint(folder, Checkpoint(config, checkpoint.weights, training))
    before = tree(tmp_path / "models")
    train(framework, "--resume", "models/mine", "--steps", 8)
    assert tree(tmp_path / "models") == before
    (folder,) = (tmp_path / "runs").iterdir()
    assert names(folder) == ["latest", "log.jsonl", "step_000008"]


# Checkpoints


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--eval_every", 1, "--eval_steps", 1, "--learning_rate", 1e38), "validation loss"),
        (("--learning_rate", 1e30, "--weight_decay", 1e30), "not finite after it: not saved"),
    ],
)
def test_what_is_not_finite_is_not_saved(call, framework, flags, words, tmp_path):
    args = (*TINY, "--steps", 9, "--checkpoint_every", 1, "--keep_last", 1, *flags)
    result = call(f"gpt_{framework}.train", *args, "--out_dir", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: step ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert run_checkpoints(tmp_path) == []


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", range(3), ids=["weights", "exp_avg", "exp_avg_sq"])
def test_one_number_that_is_not_finite_is_enough(part, number, tmp_path):
    args = [str(a) for a in (*TINY, "--steps", 3, "--out_dir", tmp_path)]
    started = run.start_run(
        resume.parse_train_config("gpt_torch.train", args),
        "torch",
        Target("cpu"),
        lambda path: None,
    )
    state = [{name: w.copy() for name, w in started.start.weights.items()} for _ in range(3)]
    state[part]["transformer.h.1.ln_2.weight"][3] = number
    state = [{n: LazyArray(w.shape, w.dtype, w.view) for n, w in each.items()} for each in state]
    with started, pytest.raises(NonFiniteError, match=r"step 2: transformer\.h\.1\.ln_2\.weight"):
        started.save(2, *state, 2)
    assert run_checkpoints(tmp_path) == []


class AsynchronousLog(RunLog):
    """The log of a run on a GPU, which reads a step when the next is under way."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options | {"asynchronous": True})


def test_the_log_has_every_step_of_a_checkpoint(train, framework, tmp_path, monkeypatch):
    """When it is written: else a crash after that leaves a run without its last loss."""
    monkeypatch.setattr(run, "RunLog", AsynchronousLog)
    found, write = [], run.write_checkpoint

    def spied(folder, checkpoint):
        found.append((checkpoint.training.step, list(entries(tmp_path, "loss"))))
        write(folder, checkpoint)

    monkeypatch.setattr(run, "write_checkpoint", spied)
    train(framework, *TINY, "--steps", 2, "--checkpoint_every", 1, "--out_dir", tmp_path)
    assert found == [(1, [0]), (2, [0, 1])]


def test_the_last_proven_checkpoint_stays(train, framework, tmp_path, monkeypatch):
    """The newest has proved itself when the step after it was finite."""
    flags = ("--checkpoint_every", 2, "--keep_last", 1, "--out_dir", tmp_path)
    train(framework, *TINY, *flags, "--steps", 5)
    assert [folder.name for folder in run_checkpoints(tmp_path)] == ["step_000004", "step_000005"]
    count, module = [], importlib.import_module(f"gpt_{framework}.train")
    schedule = module.learning_rate
    monkeypatch.setattr(
        module,
        "learning_rate",
        lambda *how: count.append(len(run_checkpoints(tmp_path))) or schedule(*how),
    )
    train(framework, "--resume", tmp_path, "--steps", 7, "--checkpoint_every", 0)
    assert count == [2, 1]  # before step 5, which is finite, and after it
    assert [folder.name for folder in run_checkpoints(tmp_path)] == ["step_000005", "step_000007"]


def test_a_run_that_diverges_keeps_what_came_before(call, framework, tmp_path, monkeypatch):
    """Its newest checkpoint, of finite weights after a finite loss, leads nowhere."""
    flags = ("--checkpoint_every", 1, "--keep_last", 1, "--out_dir", tmp_path)
    args = (*TINY, *flags, "--steps", 9)
    schedule = importlib.import_module(f"gpt_{framework}.train").learning_rate
    monkeypatch.setattr(
        f"gpt_{framework}.train.learning_rate",
        lambda step, options: 1e30 if step == 3 else schedule(step, options),
    )
    assert call(f"gpt_{framework}.train", *args).returncode == 1
    assert [folder.name for folder in run_checkpoints(tmp_path)] == ["step_000003", "step_000004"]


def damage(folder, how):
    if how == "flipped bit":
        path = folder / "optimizer.safetensors"
        content = bytearray(path.read_bytes())
        content[-3] ^= 16
        path.write_bytes(content)
    elif how.startswith("no "):
        (folder / how.removeprefix("no ")).unlink()
    elif how.startswith("empty "):
        (folder / how.removeprefix("empty ")).write_bytes(b"")
    else:
        os.truncate(folder / "model.safetensors", 1000)


DAMAGES = (
    "truncated",
    "flipped bit",
    *(f"{how} {name}" for how in ("no", "empty") for name in (
        "config.json", "model.safetensors", "optimizer.safetensors", "training_state.json",
    )),
)  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over(how, odd_config, tmp_path):
    for step in (1, 2, 3):
        write_checkpoint(step_folder(tmp_path, step), random_checkpoint(odd_config, step))
        update_latest(tmp_path, step_folder(tmp_path, step))
    damage(tmp_path / "step_000003", how)
    if how == "no training_state.json":  # weights alone, as others write them
        shutil.rmtree(tmp_path / "step_000003")
        (tmp_path / "step_000003").mkdir()
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.training.step == 2
    (note,) = checkpoint.notes
    assert "step_000003" in note
    if (tmp_path / "step_000003" / "config.json").exists():
        with pytest.raises(InputError, match=r"step_000003.*step_000002 is not damaged"):
            read_checkpoint(tmp_path / "step_000003")


@pytest.mark.parametrize("how", ["truncated", "empty training_state.json"])
def test_a_run_goes_on_from_its_newest_whole_checkpoint(train, framework, how, two_runs):
    mine, _ = two_runs
    damage(mine / "step_000002", how)
    output = train(framework, "--resume", mine, "--steps", 3)
    assert "note: skipped a damaged checkpoint" in output
    assert f"resumed {mine} after step 1" in output
    assert list(entries(mine, "loss")) == [0, 1, 2]
    assert read_checkpoint(mine).training.step == 3


# The data


def test_a_run_is_not_resumed_on_other_data(call, train, framework, tmp_path):
    text, folder = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("To be, or not to be, that is the question. " * 60)
    args = (*TINY, "--data", text, "--steps", 3, "--out_dir", folder)
    train(framework, *args)
    train(framework, "--resume", folder, "--steps", 4)
    text.write_text("To be, or not to be, that was the question. " * 60)
    result = call(f"gpt_{framework}.train", "--resume", folder, "--steps", 5)
    assert_one_line_error(result, f"{text}: not the data", f"--data {text}")
    output = train(framework, "--resume", folder, "--steps", 5, "--data", text)
    assert "resumed" in output
    assert [line for line in output.splitlines() if line.startswith("changed")] == [
        "changed steps: 4 -> 5"
    ]
    text.write_text("Something shorter, then. " * 8)
    result = call(f"gpt_{framework}.train", "--resume", folder, "--steps", 6)
    assert_one_line_error(result, f"{text}: not the data")
    output = train(framework, "--resume", folder, "--steps", 6, "--data", text)
    assert "past the end of the data" in output
    train(framework, "--resume", folder, "--steps", 7)
    assert read_checkpoint(folder).training.step == 7


def test_the_validation_loss_is_of_the_first_validation_batches(train, framework, tmp_path):
    """It is transformers' too, on the weights that are saved; training goes on where it was."""
    args = (*TINY, "--eval_every", 2, "--eval_steps", 3, "--checkpoint_every", 2, "--steps", 4)
    train(framework, *args, "--out_dir", tmp_path)
    _, val_tokens = load_splits("shakespeare", 0.1, 50257)
    for step in (2, 4):
        folder = step_folder(tmp_path, step)
        model, loader = GPT2LMHeadModel.from_pretrained(folder), BatchLoader(val_tokens, 4, 8)
        losses = []
        for _ in range(3):
            x, y = (torch.from_numpy(a).long() for a in loader.next_batch())
            with torch.no_grad():
                logits = model(x).logits.flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(logits, y.flatten()).item())
        assert entries(tmp_path, "val_loss")[step] == pytest.approx(np.mean(losses), rel=2e-6)
        assert read_checkpoint(folder).training.loader == {"position": 32 * step}


def test_without_evaluations_there_are_none(train, framework, tmp_path):
    train(framework, *TINY, "--steps", 2, "--out_dir", tmp_path)
    assert entries(tmp_path, "val_loss") == {}


def test_a_step_has_the_tokens_of_all_its_batches(train, tmp_path):
    output = train("torch", *TINY, "--grad_accum", 3, "--steps", 2, "--out_dir", tmp_path)
    assert "| 96 tokens a step\n" in output
    for entry in read_log(tmp_path / "log.jsonl"):
        assert entry["tokens_per_second"] * entry["seconds"] == pytest.approx(96)


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        (("--eval_every", 1, "--eval_steps", 1, "--sample_every", 9), ["loss", "val_loss"]),
        (("--eval_every", 0, "--sample_every", 1), ["loss", "samples"]),
    ],
)
def test_a_step_is_reported_before_what_follows_it(
    train, framework, flags, kinds, tmp_path, monkeypatch
):
    """Also on a GPU: else an evaluation's time counts as the step's, and its loss comes first."""
    monkeypatch.setattr(run, "RunLog", AsynchronousLog)
    monkeypatch.setattr(f"gpt_{framework}.train.generate_texts", lambda *args: ["a text"])
    args = ("--preset", "tiny", "--seq_len", 8, *flags, "--steps", 3, "--out_dir", tmp_path)
    train(framework, *args)
    found = [kind for entry in read_log(tmp_path / "log.jsonl") for kind in kinds if kind in entry]
    assert found == kinds * 3


def test_the_first_lines_say_what_is_trained_on_what(train, framework, tmp_path):
    np.zeros(1000, np.uint16).tofile(tmp_path / "t.bin")
    args = (*TINY, "--data", tmp_path / "t.bin", "--steps", 1, "--dtype", "float64")
    output = train(framework, *args, "--eval_every", 1, "--out_dir", tmp_path / "run")
    assert output.splitlines()[:2] == [
        f"{framework} on cpu, float64 | 403,880 parameters | 32 tokens a step",
        f"{tmp_path}/t.bin: 900 tokens to train on, 100 to validate",
    ]


def test_the_initial_weights_are_of_the_seed(train, framework, tmp_path):
    for name, flags in (("a", ()), ("b", ("--seed", 1337)), ("c", ("--seed", 7))):
        train(framework, *TINY, *flags, "--steps", 1, "--out_dir", tmp_path / name)
    first, same, other = (entries(tmp_path / name, "loss")[0] for name in "abc")
    assert first == same != other


def test_a_checkpoint_says_what_has_made_it(train, framework, tmp_path):
    train(framework, *TINY, "--steps", 1, "--out_dir", tmp_path)
    found = read_checkpoint(tmp_path).training.versions
    packages = ("gpt-twins", "torch", "jax", "flax", "optax", "numpy")
    assert found == {name: metadata.version(name) for name in packages} | {"framework": framework}


def test_device_and_dtype_reach_whoever_asks_for_them(train, framework, tmp_path, monkeypatch):
    module, asked = importlib.import_module(f"gpt_{framework}.train"), []
    for name in ("resolve_dtype", "select_device"):
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, f=function, n=name: asked.append((n, *a)) or f(*a)
        )
    train(framework, *TINY, "--device", "cpu", "--steps", 1, "--out_dir", tmp_path)
    assert asked == [("resolve_dtype", "auto", "cpu"), ("select_device", "cpu", "float32")]


# Options of a resumed run

FREE = {
    "val_fraction", "data", "steps", "device", "dtype", "compile", "fast_ops", "out_dir", "resume",
    "log_every", "eval_every", "eval_steps", "sample_every", "checkpoint_every", "keep_last",
    "tensorboard", "wandb", "trackio", "dry_run", "mfu", "hellaswag",
}  # fmt: skip


def test_what_a_resumed_run_may_change(train, tmp_path, monkeypatch):
    train("torch", *TINY, "--steps", 1, "--out_dir", tmp_path)
    stored = resume.stored_config(str(tmp_path))
    for group, options in vars(stored).items():
        for name, value in vars(options).items():
            if group == "parallel":  # not part of a run
                continue
            if name == "total_batch_tokens":  # with the run's grad_accum it is refused by itself
                continue
            changed = dataclasses.replace(options, **{name: another(value)})
            given = dataclasses.replace(stored, **{group: changed})
            monkeypatch.setattr(resume, "_parse_over", lambda *args, given=given: given)
            args = ["--resume", str(tmp_path)]
            if name in FREE | {"new_data"}:
                found = resume.parse_train_config("gpt_torch.train", args)
                assert found == resume.with_resume(given, str(tmp_path))
            else:
                with pytest.raises(InputError, match=f"{name} is {value}, got {another(value)}"):
                    resume.parse_train_config("gpt_torch.train", args)


def another(value):
    """Another value of an option."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "2"
    return value / 2 if isinstance(value, float) else (value or 0) + 1


# What ends a run early


def test_a_stop_during_an_evaluation_saves_at_once(call, framework, tmp_path, monkeypatch):
    """Whatever the evaluation would still have taken; it leaves no validation loss."""
    batches = []
    next_batch = BatchLoader.next_batch

    def counted(loader):
        if threading.current_thread() is threading.main_thread():  # those of the evaluation
            batches.append(loader)
            if len(batches) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return next_batch(loader)

    monkeypatch.setattr(BatchLoader, "next_batch", counted)
    args = (*TINY, "--eval_every", 1, "--eval_steps", 10**9, "--steps", 9, "--out_dir", tmp_path)
    assert call(f"gpt_{framework}.train", *args).returncode == 128 + signal.SIGTERM
    assert len(batches) == 3
    assert entries(tmp_path, "val_loss") == {}
    assert [folder.name for folder in run_checkpoints(tmp_path)] == ["step_000001"]


def test_a_stop_makes_no_more_samples(call, framework, tmp_path, monkeypatch):
    """Which take seconds, where a scheduler may wait no longer."""
    module, sampled = importlib.import_module(f"gpt_{framework}.train"), []
    schedule = module.learning_rate

    def stop_in_the_second(step, options):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return schedule(step, options)

    monkeypatch.setattr(module, "learning_rate", stop_in_the_second)
    monkeypatch.setattr(module, "generate_texts", lambda *args: sampled.append(args) or [])
    args = ("--preset", "tiny", "--seq_len", 8, "--eval_every", 0, "--sample_every", 1)
    assert call(f"gpt_{framework}.train", *args, "--steps", 9, "--out_dir", tmp_path).returncode
    assert len(sampled) == 1
    assert read_checkpoint(tmp_path).training.step == 2


def test_a_signal_before_the_first_step_ends_a_run_at_once(call, framework, tmp_path, monkeypatch):
    """There is nothing to save yet, and much may be to read."""
    module = f"gpt_{framework}.train"
    interrupt = lambda *args: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    monkeypatch.setattr(f"{module}.create_state", interrupt)
    result = call(module, *TINY, "--steps", 9, "--out_dir", tmp_path)
    assert result.returncode == 130
    assert result.stderr == "error: interrupted\n"
    assert run_checkpoints(tmp_path) == []


SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2)


def receive(*numbers):
    with cli.StopSignal() as stop:
        for number in numbers:
            os.kill(os.getpid(), number)
            assert stop.received()


@pytest.fixture
def harmless():
    """Signals that a run leaves to the system would end the tests."""
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("number", [signal.SIGINT, *SIGNALS])
def test_a_signal_is_a_request(number):
    """And so is what follows it: schedulers repeat theirs."""
    with pytest.raises(SystemExit) as stopped:
        receive(number, *SIGNALS, *SIGNALS)
    assert stopped.value.code == 128 + number


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_ctrl_c_after_the_first_signal_interrupts_at_once(first):
    with pytest.raises(KeyboardInterrupt):
        receive(first, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, *SIGNALS])
def test_an_ignored_signal_stays_ignored(number):
    """As by nohup, and by shells for what they start in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with cli.StopSignal() as stop:
            os.kill(os.getpid(), number)
            assert not stop.received()
    finally:
        signal.signal(number, before)


class Lost(io.StringIO):
    """Standard output that fails after some lines."""

    def __init__(self, error, lines):
        super().__init__()
        self.error, self.left = error, lines

    def write(self, text):
        self.left -= text.count("\n")
        if self.left < 0:
            raise self.error
        return super().write(text)


def test_a_run_whose_reader_has_gone_saves_and_ends(call, framework, tmp_path, monkeypatch):
    """As in `train | head -3`: two lines tell of the run, the third is of its first step."""
    monkeypatch.setattr(sys, "stdout", Lost(BrokenPipeError(), 3))
    result = call(f"gpt_{framework}.train", *TINY, "--steps", 50, "--out_dir", tmp_path)
    assert result.returncode == 141
    assert result.stderr == ""
    assert [folder.name for folder in run_checkpoints(tmp_path)] == ["step_000002"]


def test_a_run_outlives_its_console(call, framework, tmp_path, monkeypatch):
    """A terminal that hung up, or a full disk under what the console is written to."""
    monkeypatch.setattr(sys, "stdout", Lost(OSError(5, "Input/output error"), 1))
    result = call(f"gpt_{framework}.train", *TINY, "--steps", 4, "--out_dir", tmp_path)
    assert result.returncode == 0
    assert list(entries(tmp_path, "loss")) == [0, 1, 2, 3]
    assert read_checkpoint(tmp_path).training.step == 4


def test_a_closed_pipe_and_standard_streams_that_are_closed(tmp_path):
    train = f"{sys.executable} -m gpt_torch.train {' '.join(map(str, TINY))} --steps"
    script = f"{train} 50 --out_dir {tmp_path}/piped | head -1; echo ${{PIPESTATUS[0]}}; "
    script += f"{train} 2 --out_dir {tmp_path}/closed <&- >&- 2>&-; echo $?"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300)
    assert result.stderr == ""
    first, piped, closed = result.stdout.splitlines()
    assert first.startswith("torch on cpu")
    assert (piped, closed) == ("141", "0")
    assert read_checkpoint(tmp_path / "piped").training.step < 50
    assert read_checkpoint(tmp_path / "closed").training.step == 2


@pytest.mark.parametrize(
    ("command", "library"), [("gpt_torch.train", "libtorch_cpu"), ("gpt_flax.generate", "jaxlib")]
)
def test_ctrl_c_during_the_imports_is_quiet(command, library):
    process = subprocess.Popen(
        [sys.executable, "-m", command, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and library not in maps.read_text():
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("package", ["benchmarks", "convert", "gpt_flax", "gpt_torch", "tests"])
def test_every_command_is_quiet_before_its_imports(package, monkeypatch):
    """Each package prepares its commands: Python has no other place to do it so early."""
    module = importlib.import_module(package)
    monkeypatch.setattr(sys, "argv", ["-m"])  # as Python has it then
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        importlib.reload(module)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


# The log


def test_a_damaged_log_loses_the_damaged_lines_alone(train, tmp_path):
    train("torch", *TINY, "--steps", 3, "--out_dir", tmp_path)
    path = tmp_path / "log.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    bad = (b"5\n", b'{"a": 1}\n', b'{"step": "x"}\n', b"\xff\xfe\n", b"[" * 10**5 + b"\n", b"{\n")
    path.write_bytes(first + b"".join(bad) + b"".join(others))
    train("torch", "--resume", tmp_path, "--steps", 4)
    assert list(entries(tmp_path, "loss")) == [0, 1, 2, 3]


def test_an_entry_is_on_the_disk_when_its_step_is_reported(tmp_path):
    with RunLog(tmp_path, 0, 10, 64, 1) as log:
        log.step(0, 0.1, {"loss": 1.0, "grad_norm": 1.0})
        assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")] == [0]


@pytest.mark.parametrize("between", ["evaluation", "samples", "saved"])
def test_a_step_takes_its_own_time_only(between, tmp_path, monkeypatch):
    now = itertools.count()
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: float(next(now)))
    with RunLog(tmp_path, 0, 10, 64, 1) as log:
        log.step(0, 0.1, {"loss": 1.0, "grad_norm": 1.0})
        for _ in range(100):
            next(now)
        argument = {"evaluation": (1, 2.0), "samples": (1, ["a"]), "saved": (tmp_path,)}[between]
        getattr(log, between)(*argument)
        log.step(1, 0.1, {"loss": 1.0, "grad_norm": 1.0})
    seconds = [e["seconds"] for e in read_log(tmp_path / "log.jsonl") if "seconds" in e]
    assert seconds == [1.0, 1.0]


def test_a_log_on_a_full_disk_is_named(tmp_path, monkeypatch):
    with RunLog(tmp_path, 0, 10, 64, 1) as log:
        monkeypatch.setattr(log._file, "flush", lambda: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match=r"log\.jsonl"):
            log.step(0, 0.1, {"loss": 1.0, "grad_norm": 1.0})
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("device", "asynchronous"), [("cpu", False), ("cuda", True), ("gpu", True)]
)
def test_a_loss_is_read_late_on_any_gpu(device, asynchronous, tmp_path):
    args = [str(a) for a in (*TINY, "--steps", 3, "--out_dir", tmp_path)]
    config = resume.parse_train_config("gpt_flax.train", args)
    started = run.start_run(config, "flax", Target(device), lambda path: None)
    with started:
        started.log.step(0, 0.1, {"loss": 1.0, "grad_norm": 1.0})
        assert started.log.finite_steps == (1 if device == "cpu" else 0)


# Memory


def test_training_that_cannot_fit_is_refused_with_the_number(call, framework, tmp_path):
    for flags in (
        ("--vocab_size", 10**9),
        ("--block_size", 10**12),
        ("--block_size", 10**26),
        ("--n_embd", 10**6, "--n_head", 1),
        ("--grad_accum", 10**9),
        ("--batch_size", 10**4, "--seq_len", 8, "--n_embd", 10**4),
    ):
        result = call(f"gpt_{framework}.train", *TINY, "--out_dir", tmp_path / "run", *flags)
        assert_one_line_error(result, "GB of memory", "GB are available", "make --batch_size")
    assert not (tmp_path / "run").exists()


def test_memory_is_asked_for_whatever_a_run_starts_from(call, framework, two_runs, tmp_path):
    mine, _ = two_runs
    command, much = f"gpt_{framework}.train", ("--seq_len", 8, "--batch_size", 10**11)
    result = call(command, "--init", mine, *much, "--out_dir", tmp_path / "new")
    assert_one_line_error(result, "training takes at least", "make --batch_size")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("enough", [True, False])
def test_a_gpu_has_memory_of_its_own(tmp_path, enough):
    """Weights, gradients and two moments, padded rows included: a byte less is too little."""
    args = [str(a) for a in (*TINY, "--dtype", "float64", "--steps", 1, "--out_dir", tmp_path)]
    config = resume.parse_train_config("gpt_torch.train", args)
    state = 4 * 8 * (num_parameters(config.model.gpt_config()) + 8 * 47)
    target = Target("cuda", free=state if enough else state - 1)
    if enough:
        with run.start_run(config, "torch", target, lambda path: None):
            return
    with pytest.raises(InputError, match="training takes at least"):
        run.start_run(config, "torch", target, lambda path: None)


def test_as_much_as_is_there_may_be_taken(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    memory.require_memory(100, "this", "that")
    with pytest.raises(InputError, match="this takes at least"):
        memory.require_memory(101, "this", "that")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.require_memory(10**30, "this", "that")


def test_the_memory_that_is_there(tmp_path, monkeypatch):
    """Of the machine, the container and the process, the least."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "CGROUP", cgroup)
    monkeypatch.setattr(memory.resource, "getrlimit", lambda kind: (-1, -1))
    assert memory.available_memory() is None
    (proc / "meminfo").write_text("MemTotal:  9000 kB\nMemFree: 1 kB\nMemAvailable:  5000 kB\n")
    assert memory.available_memory() == 5000 * 1024
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("3000000\n")
    (cgroup / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert memory.available_memory() == 5000 * 1024
    (cgroup / "memory.max").write_text("4000000\n")
    assert memory.available_memory() == 1_500_000
    (proc / "self" / "status").write_text("Name: python\nVmSize:   1000 kB\n")
    monkeypatch.setattr(memory.resource, "getrlimit", lambda kind: (2_000_000, -1))
    assert memory.available_memory() == 2_000_000 - 1_024_000


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.\nmore\nlines"),
        RuntimeError("RESOURCE_EXHAUSTED: Failed to allocate request for 20.00GiB"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_an_allocation_that_fails_is_one_line(error, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        cli.run(main, "--batch_size")
    errors = capsys.readouterr().err
    assert stopped.value.code == 2
    assert errors.startswith("error: out of memory: make --batch_size smaller (")
    assert errors.count("\n") == 1


def test_other_runtime_errors_are_ours(capsys):
    def main():
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        cli.run(main)


# Error lines


def test_an_error_line_is_printable_and_short(capsys):
    def main():
        raise InputError("\x1b]0;title\x07 a\nb \x1b[2J\u202e é " + "x" * 10**6)

    with pytest.raises(SystemExit):
        cli.run(main)
    line = capsys.readouterr().err
    assert line.startswith(r"error: \x1b]0;title\x07 a b \x1b[2J\u202e é xxx")
    assert len(line) == len("error: ") + 500 + 1
    assert line.endswith("x...\n")


def test_an_unknown_flag_is_answered_with_one_that_is_known(call):
    result = call("gpt_torch.train", "--learning_rat", 3)
    assert_one_line_error(result, "--learning_rat", "perhaps you meant --learning_rate")


def test_a_value_of_no_type_of_a_union_is_one_sentence(call):
    result = call("gpt_torch.train", "--mesh", "1")
    assert_one_line_error(result, "--mesh", "INT INT", "from ['1'] (--help lists the flags)")


def test_exit_codes_where_nothing_can_be_written():
    command = f"{sys.executable} -c 'from gpt_common import cli; cli.run(lambda: print(1))'"
    wrong = command.replace("print(1)", '[][0:print(1)] or open("/none")')
    script = f"{command} >/dev/full; echo $?; {wrong} 2>/dev/full >&2; echo $?"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["2", "2"]
    assert result.stderr == "error: [Errno 28] No space left on device\n"


def test_layers_without_end_are_refused(call, framework):
    result = call(f"gpt_{framework}.train", *TINY, "--n_layer", 10**6)
    assert_one_line_error(result, "n_layer must be at most 1000, got 1000000")


# Packages that are absent


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("gpt_torch.train", "torch"),
        ("gpt_flax.generate", "flax"),
        ("gpt_flax.train", "jax"),
        ("gpt_flax.train", "optax"),
        ("convert.verify", "jax"),
        ("convert.verify", "torch"),
        ("convert", "torch"),
        ("convert", "flax"),
    ],
)
def test_a_command_without_a_package_is_one_line(command, absent, odd_config, tmp_path):
    write_checkpoint(tmp_path / "model", random_checkpoint(odd_config))
    ending = {"torch": "m.pt", "flax": "m.msgpack"}.get(absent, "")
    args = ["model", ending] if command == "convert" else ["model"]
    script = f"""
import importlib.util, runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == {absent!r} else find_spec(name)
sys.meta_path.insert(0, Absent())
sys.argv = ["-m", *{args}]
runpy.run_module({command!r}, run_name="__main__", alter_sys=True)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert_one_line_error(result, f"pip install {absent}")


@pytest.mark.parametrize("as_command", [True, False])
def test_a_framework_that_is_not_installed(as_command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["-m" if as_command else "program"])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit if as_command else ModuleNotFoundError) as stopped:
            startup.prepare("gpt_torch", "json", "no_such_framework")
        assert (signal.getsignal(signal.SIGINT) == signal.SIG_DFL) == as_command
    finally:
        signal.signal(signal.SIGINT, before)
    line = "gpt_torch needs no_such_framework: pip install no_such_framework"
    if as_command:
        assert stopped.value.code == 2
        assert capsys.readouterr().err == f"error: {line}\n"
    else:
        assert str(stopped.value) == line
