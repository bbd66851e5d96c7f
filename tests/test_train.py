"""Training as a user meets it: from both command lines."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import GPT2LMHeadModel

from gpt_common.checkpoint import read_checkpoint
from gpt_common.estimate import Target
from gpt_common.metrics import read_log
from gpt_common.resume import parse_train_config
from gpt_common.run import start_run
from tests.conftest import CPU, FLOAT32, FRAMEWORKS, TINY, assert_one_line_error, command


def entries(folder, key):
    return {e["step"]: e[key] for e in read_log(folder / "log.jsonl") if key in e}


def test_help_is_the_same_text_for_both_twins_but_for_the_command(call):
    for name in ("train", "generate", "evaluate"):
        texts = []
        for framework in FRAMEWORKS:
            result = call(f"gpt_{framework}.{name}", "--help")
            assert result.returncode == 0
            usage, text = result.stdout.split("\n", 1)
            assert usage.startswith(f"usage: python -m gpt_{framework}.{name} ")
            texts.append(text)
        assert texts[0] == texts[1]
    assert "--overfit_batch" in call("gpt_torch.train", "--help").stdout


def test_a_run_from_end_to_end(framework, tmp_path):
    run = tmp_path / "run"
    result = command(
        f"gpt_{framework}.train", "--preset", "tiny", "--steps", 6, "--eval-every", 3,
        "--eval-steps", 2, "--checkpoint_every", 4, "--sample_every", 5, "--out_dir", run,
    )  # fmt: skip
    assert result.returncode == 0
    assert result.stderr == ""
    output = result.stdout
    assert sorted(p.name for p in run.iterdir()) == [
        "latest", "log.jsonl", "step_000004", "step_000006",
    ]  # fmt: skip
    assert (run / "latest").resolve().name == "step_000006"
    assert list(entries(run, "loss")) == list(range(6))
    assert entries(run, "loss")[0] == pytest.approx(np.log(50257), abs=0.2)
    assert list(entries(run, "val_loss")) == [3, 6]
    assert list(entries(run, "samples")) == [5, 6]
    for step, loss in entries(run, "loss").items():
        assert f"step {step:5d} | loss {loss:9.6f}" in output
    assert output.count("> Hello, I'm a language model,") == 10


def test_both_twins_print_the_same_first_line_of_losses(train, tmp_path):
    for framework in FRAMEWORKS:
        train(framework, *TINY, *CPU, "--steps", 5, "--out_dir", tmp_path / framework)
    ours, theirs = (list(entries(tmp_path / f, "loss").values()) for f in FRAMEWORKS)
    assert ours == pytest.approx(theirs, rel=5e-7)


def test_both_twins_agree_to_the_last_digits_in_float64(train, tmp_path):
    for framework in FRAMEWORKS:
        args = (*TINY, "--dtype", "float64", "--steps", 10)
        train(framework, *args, "--learning_rate", 3e-3, "--out_dir", tmp_path / framework)
    ours, theirs = (list(entries(tmp_path / f, "loss").values()) for f in FRAMEWORKS)
    assert ours == pytest.approx(theirs, rel=1e-14)


@pytest.mark.parametrize(("cut", "shuffle"), [(1, ()), (5, ()), (5, ("--shuffle",))])
def test_resumed_is_the_same_bit_for_bit(train, framework, cut, shuffle, tmp_path):
    schedule = ("--lr_schedule", "cosine", "--warmup_steps", 3, "--grad_accum", 2)
    common = (*TINY, *schedule, *shuffle)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(framework, *common, "--steps", 8, "--checkpoint_every", cut, "--out_dir", whole)
    output = train(
        framework, "--resume", whole / f"step_{cut:06d}", "--out_dir", parts, "--log_every", 3
    )
    assert "changed log_every: 1 -> 3" in output
    for name in ("model.safetensors", "optimizer.safetensors"):
        first, second = (r / "latest" / name for r in (whole, parts))
        assert first.read_bytes() == second.read_bytes()
    assert entries(parts, "loss") == {s: v for s, v in entries(whole, "loss").items() if s >= cut}


@pytest.mark.parametrize(("first", "second"), [FRAMEWORKS, FRAMEWORKS[::-1]])
def test_a_run_goes_on_in_the_other_twin(train, first, second, tmp_path):
    train(first, *TINY, *FLOAT32, "--steps", 10, "--out_dir", tmp_path / "whole")
    train(first, *TINY, *FLOAT32, "--steps", 5, "--out_dir", tmp_path / "hop")
    train(second, "--resume", tmp_path / "hop", "--steps", 10)
    whole, hop = (entries(tmp_path / r, "loss") for r in ("whole", "hop"))
    assert list(hop) == list(range(10))
    assert list(hop.values()) == pytest.approx(list(whole.values()), rel=5e-7)


def test_flags_that_contradict_the_resumed_run_are_named(call, train, framework, tmp_path):
    train(framework, *TINY, "--steps", 2, "--out_dir", tmp_path / "run")
    result = call(
        f"gpt_{framework}.train", "--resume", tmp_path / "run", "--steps", 4,
        "--learning_rate", 1, "--n_layer", 3,
    )  # fmt: skip
    assert_one_line_error(result, "learning_rate is 0.0003, got 1.0", "n_layer is None, got 3")
    result = call(f"gpt_{framework}.train", "--resume", tmp_path / "run")
    assert_one_line_error(result, "expected --steps above the 2 that the run has done")


def test_init_starts_a_new_run_from_a_checkpoint(call, train, framework, tmp_path):
    train(framework, *TINY, "--steps", 3, "--out_dir", tmp_path / "first")
    new = ("--init", tmp_path / "first", *TINY[2:])
    train(framework, *new, "--steps", 2, "--out_dir", tmp_path / "b")
    checkpoint = read_checkpoint(tmp_path / "b")
    assert checkpoint.config.n_embd == 8
    assert checkpoint.training.step == 2
    result = call(f"gpt_{framework}.train", "--init", tmp_path / "first", "--n_layer", 3)
    assert_one_line_error(result, "n_layer is 2, got --n_layer 3")
    result = call(f"gpt_{framework}.train", "--init", tmp_path / "first", "--preset", "shakespeare")
    assert_one_line_error(result, "first: not of the sizes of --preset shakespeare")


def test_a_second_run_does_not_overwrite_the_first(call, train, framework, tmp_path):
    train(framework, *TINY, "--steps", 1, "--out_dir", tmp_path)
    result = call(f"gpt_{framework}.train", *TINY, "--steps", 1, "--out_dir", tmp_path)
    assert_one_line_error(result, "holds a run already")


@pytest.mark.parametrize("device", ["cpu", "cuda", "gpu", "mps"])
def test_a_loss_is_read_at_once_only_on_a_cpu(device, tmp_path):
    """Elsewhere when the next step is under way, by torch's name of the device and by jax's."""
    config = parse_train_config(
        "gpt_torch.train", [*map(str, TINY), "--steps", "2", "--out_dir", str(tmp_path)]
    )
    run, read = start_run(config, "torch", Target(device), None), []

    class Loss:
        def __float__(self):
            read.append(True)
            return 1.0

    with run.log as log:
        log.step(0, 1e-3, {"loss": Loss(), "grad_norm": 1.0})
        assert bool(read) == (device == "cpu")
        log.flush()
    assert read


def test_overfitting_one_batch(train, framework, tmp_path):
    small = (*TINY, "--n_embd", 128)
    train(
        framework, *small, "--overfit_batch", "--learning_rate", 3e-3, "--steps", 50,
        "--out_dir", tmp_path,
    )  # fmt: skip
    losses = entries(tmp_path, "loss")
    assert losses[0] > 10.5
    assert losses[49] < 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes(train, framework, dtype, tmp_path):
    train(framework, *TINY, "--steps", 3, "--dtype", dtype, "--out_dir", tmp_path)
    (stored,) = {w.dtype for w in read_checkpoint(tmp_path).weights.values()}
    assert stored == ("float64" if dtype == "float64" else "float32")
    assert entries(tmp_path, "loss")[0] == pytest.approx(np.log(50257), abs=0.2)


def test_bfloat16_is_what_trains_and_evaluates(train, framework, tmp_path):
    flags = (*TINY, "--learning_rate", 0, "--eval_every", 1, "--eval_steps", 1, "--steps", 1)
    for dtype in ("float32", "bfloat16"):
        train(framework, *flags, "--dtype", dtype, "--out_dir", tmp_path / dtype)
    for loss in ("loss", "val_loss"):
        (exact,), (found,) = (
            entries(tmp_path / dtype, loss).values() for dtype in ("float32", "bfloat16")
        )
        assert found != exact
        assert found == pytest.approx(exact, rel=1e-3)


@pytest.mark.slow
def test_compile_changes_nothing_but_speed(train, tmp_path):
    for name, flags in (("eager", ()), ("compiled", ("--compile",))):
        train("torch", *TINY, *FLOAT32, *flags, "--steps", 3, "--out_dir", tmp_path / name)
    eager, compiled = (entries(tmp_path / n, "loss") for n in ("eager", "compiled"))
    assert list(compiled.values()) == pytest.approx(list(eager.values()), rel=5e-7)


def test_hugging_face_opens_the_checkpoint_and_finds_the_same_loss(train, framework, tmp_path):
    """On the next batch, which is the first that a resumed run logs."""
    import torch

    from gpt_common.data import BatchLoader, load_splits

    args = (*TINY, *FLOAT32, "--steps", 4, "--checkpoint_every", 3)
    train(framework, *args, "--out_dir", tmp_path)
    folder = tmp_path / "step_000003"
    loader = BatchLoader(load_splits("shakespeare", 0.1, 50257)[0], 4, 8)
    loader.restore(json.loads((folder / "training_state.json").read_text())["loader"])
    x, y = (torch.from_numpy(a).long() for a in loader.next_batch())
    with torch.no_grad():
        logits = GPT2LMHeadModel.from_pretrained(folder)(x).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()).item()
    assert loss == pytest.approx(entries(tmp_path, "loss")[3], rel=5e-7)


def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(call, framework, tmp_path):
    result = call(
        f"gpt_{framework}.train", *TINY, "--learning_rate", 1e30, "--steps", 9,
        "--checkpoint_every", 1, "--out_dir", tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("error: step 1: loss nan")
    assert result.stderr.count("\n") == 1
    assert read_checkpoint(tmp_path).training.step == 1


@pytest.mark.parametrize(
    ("framework", "number"), [("torch", signal.SIGINT), ("flax", signal.SIGTERM)]
)
def test_ctrl_c_saves_and_exits(framework, number, tmp_path):
    args = (*TINY, "--steps", 100_000, "--out_dir", tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", f"gpt_{framework}.train", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    for line in process.stdout:
        if line.startswith("step     3"):
            process.send_signal(number)
            break
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert errors == ""
    checkpoint = read_checkpoint(tmp_path)
    assert "saved" in output
    assert checkpoint.training.step == len(entries(tmp_path, "loss")) >= 4
    assert checkpoint.training.loader == {"position": checkpoint.training.step * 32}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--data", "{tmp}/short.txt"), ("expected at least 33", "got 2")),
        (
            ("--data", "{tmp}/middle.txt", "--eval_every", 9),
            ("validation", "expected at least 33", "--eval_every 0"),
        ),
        (("--data", "{tmp}/empty.txt"), ("empty file",)),
        (("--data", "{tmp}/latin.txt"), ("UTF-8", "0xe9 at position 3")),
        (("--data", "{tmp}/missing.txt"), ("missing.txt: no such file",)),
        (("--data", "{tmp}/large.bin"), ("below vocab_size 50257", "got 60000 at position 70")),
        (("--seq_len", 9), ("at most block_size 8, got 9",)),
        (("--n_head", 3), ("n_embd 8, n_head 3",)),
        (("--preset", "gpt3"), ("gpt3", "gpt2-medium")),
        (("--steps", "ten"), ("--steps", "ten")),
        (("--steps", 0), ("steps must be positive, got 0",)),
        (("--no_such_flag",), ("--no_such_flag",)),
        (("--learning_rate", "nan"), ("learning_rate", "nan")),
        (("--init", "{tmp}/missing"), ("missing: no such file or folder",)),
        (("--init", "{tmp}/truncated"), ("expected a whole safetensors file",)),
        (("--init", "{tmp}/misfit"), ("expected (999, 40), got (997, 40)",)),
        (("--resume", "{tmp}/checkpoint"), ("options",)),
        (("--out_dir", "{tmp}/short.txt"), ("short.txt",)),
        (("--device", "mps"), ("device mps: expected one of",)),
        (("--device", "cpu", "--dtype", "tf32"), ("device cpu cannot compute in tf32",)),
    ],
)
def test_wrong_input_is_one_line(call, framework, args, words, tmp_path, checkpoint_folder):
    (tmp_path / "short.txt").write_text("Hello world")
    (tmp_path / "middle.txt").write_text("a b " * 50)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    tokens = np.zeros(1000, np.uint16)
    tokens[70] = 60000
    tokens.tofile(tmp_path / "large.bin")
    for name, file, change in (
        ("truncated", "model.safetensors", lambda content: content[:-5]),
        ("misfit", "config.json", lambda content: content.replace(b"997", b"999")),
    ):
        folder = shutil.copytree(checkpoint_folder, tmp_path / name)
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    args = [str(a).format(tmp=tmp_path) for a in args]
    out = () if "--out_dir" in args else ("--out_dir", tmp_path / "run")
    result = call(f"gpt_{framework}.train", *TINY, *out, *args)
    assert_one_line_error(result, *words)
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_hellaswag_at_each_evaluation(framework, call, train, tmp_path):
    """As the command of evaluation finds it."""
    examples, run = Path(__file__).parent / "hellaswag.jsonl", tmp_path / "run"
    options = ("--preset", "tiny", "--steps", 4, "--eval_every", 2, "--eval_steps", 1)
    printed = train(framework, *options, "--hellaswag", examples, "--out_dir", run)
    found = entries(run, "hellaswag")
    assert list(found) == [2, 4]
    asked = ("--init", run, "--hellaswag", examples, "--protocol", "build-nanogpt", "--json")
    result = json.loads(call(f"gpt_{framework}.evaluate", *asked).stdout)
    assert found[4] == result["hellaswag"]["build-nanogpt"]["acc_norm"]
    assert f"step     4 | HellaSwag {found[4]:.4f} (" in printed


def test_a_damaged_hellaswag_leaves_no_folder(framework, call, tmp_path):
    (tmp_path / "examples.jsonl").write_text("{}\n")
    args = (*TINY, "--hellaswag", tmp_path / "examples.jsonl", "--out_dir", tmp_path / "run")
    result = call(f"gpt_{framework}.train", *args)
    assert_one_line_error(result, "examples.jsonl:1: endings: expected a list of 4, got None")
    assert not (tmp_path / "run").exists()
