"""Several processes or devices train as one does, in float64: losses, norms, weights, moments."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_common.checkpoint import Checkpoint, TrainingState, read_checkpoint, write_checkpoint
from gpt_common.config import GPTConfig
from gpt_common.initialization import initialize_weights
from gpt_common.loss_scale import LossScale
from gpt_common.metrics import read_log
from gpt_common.resume import parse_train_config
from gpt_torch.fast import FastOps
from gpt_torch.generate import load_model
from gpt_torch.train import loss_fn
from tests.conftest import FRAMEWORKS
from tests.parallel.launch import Launched

MODEL = ("--preset", "tiny", "--n_layer", "3", "--n_embd", "32", "--n_head", "4")
OPTIONS = (
    *MODEL,
    *("--dtype", "float64", "--device", "cpu", "--learning_rate", "1e-3"),
    *("--batch_size", "4", "--seq_len", "16", "--grad_accum", "3", "--grad_clip", "0.5"),
    *("--eval_every", "5", "--eval_steps", "2", "--sample_every", "5"),
)
HELLASWAG = ("--hellaswag", str(Path(__file__).parents[1] / "hellaswag.jsonl"))
STEPS = ("--steps", "10", *HELLASWAG)
FLOAT64_LOSS, FLOAT64_WEIGHTS = 1e-14, 1e-12  # relative


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """A run of one process in each twin."""
    folder = tmp_path_factory.mktemp("alone")
    for twin in ("torch", "flax"):
        launch(1, twin, [(*OPTIONS, *STEPS, "--out_dir", folder / twin)])
    return folder


def launch(size, twin, runs, **environ):
    arguments = json.dumps([[str(arg) for arg in run] for run in runs])
    with Launched(size, "tests.parallel.runs", twin, arguments, **environ) as launched:
        codes = launched.codes()
        assert codes == [0] * size, launched.errors
        assert launched.errors == [""] * size
        assert launched.outputs[1:] == [""] * (size - 1)


def assert_same(run, other):
    """Two runs have the same losses, norms, samples at the end, and checkpoint."""
    ours, theirs = read_log(run / "log.jsonl"), read_log(other / "log.jsonl")
    assert numbers(ours) == pytest.approx(numbers(theirs), rel=FLOAT64_LOSS, abs=0)
    assert ours[-1]["samples"] == theirs[-1]["samples"]
    ours, theirs = read_checkpoint(run), read_checkpoint(other)
    assert ours.training.loader == theirs.training.loader
    for found, expected in zip(tensors(ours), tensors(theirs), strict=True):
        limit = FLOAT64_WEIGHTS * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def numbers(entries):
    names = ("loss", "grad_norm", "val_loss", "hellaswag")
    return {(e["step"], name): e[name] for e in entries for name in names if name in e}


def tensors(checkpoint):
    training = checkpoint.training
    groups = checkpoint.weights, training.exp_avg, training.exp_avg_sq
    return [array for group in groups for array in group.values()]


def runs_of(folder, **options):
    """The arguments of a run for each name, with its options, in a folder of that name."""
    return [(*OPTIONS, *STEPS, *more, "--out_dir", folder / name) for name, more in options.items()]


FSDP = ("--parallel", "fsdp")
COMPILED = ("--compile", *FSDP)


@pytest.mark.parametrize("options", [(), FSDP], ids=["ddp", "fsdp"])
def test_two_processes_of_torch(options, alone, tmp_path):
    launch(2, "torch", runs_of(tmp_path, run=options))
    assert_same(tmp_path / "run", alone / "torch")


def test_two_processes_of_flax(alone, tmp_path):
    launch(2, "flax", runs_of(tmp_path, fsdp=FSDP))
    assert_same(tmp_path / "fsdp", alone / "flax")


@pytest.mark.parametrize(
    "kinds",
    [
        {"ddp": (), "both": ("--mesh", "2", "2")},
        pytest.param({"fsdp": FSDP, "none": ("--parallel", "none")}, marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_four_devices_of_flax(kinds, alone, tmp_path):
    launch(1, "flax", runs_of(tmp_path, **kinds), JAX_NUM_CPU_DEVICES="4")
    for name in kinds:
        assert_same(tmp_path / name, alone / "flax")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), FSDP, ("--mesh", "2", "2"), COMPILED])
def test_four_processes_of_torch(options, alone, tmp_path):
    launch(4, "torch", runs_of(tmp_path, run=options))
    assert_same(tmp_path / "run", alone / "torch")


@pytest.mark.slow
def test_two_processes_of_flax_with_two_devices_each(alone, tmp_path):
    launch(2, "flax", runs_of(tmp_path, both=("--mesh", "2", "2")), JAX_NUM_CPU_DEVICES="2")
    assert_same(tmp_path / "both", alone / "flax")


OVERFLOWING = GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=16, vocab_size=97)


def overflowing(folder) -> Checkpoint:
    """A run in float16 whose next gradients overflow, but only in the part of the second process.

    One hidden unit has a large weight, and all tokens are the same, so that their gradients add up.
    """
    np.save(folder / "tokens.npy", np.full(2000, 5, np.uint16))
    options = ("--data", folder / "tokens.npy", "--dtype", "float16", "--eval_every", 0)
    sizes = ("--batch_size", 4, "--seq_len", 16, "--steps", 2, "--device", "cpu")
    config = parse_train_config("gpt_torch.train", [*map(str, (*options, *sizes))])
    weights = {name: w.copy() for name, w in initialize_weights(OVERFLOWING, 1).items()}
    weights["transformer.h.0.mlp.c_proj.weight"][31] *= 1000
    moments = [{name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2)]
    state = {"options": config.as_dict(), "loss_scale": LossScale(2.0**19)}
    training = TrainingState(1, *moments, {"position": 0}, **state)
    return Checkpoint(OVERFLOWING, weights, training)


@pytest.mark.parametrize("twin", FRAMEWORKS)
def test_an_overflow_in_the_part_of_one_process_skips_the_update_of_all(twin, tmp_path):
    start, run = overflowing(tmp_path), tmp_path / "run"
    write_checkpoint(tmp_path / "start", start)
    resume = ("--resume", tmp_path / "start", *FSDP, "--out_dir", run)
    launch(2, twin, [(*resume, "--checkpoint_every", "1")])
    (step,) = (entry for entry in read_log(run / "log.jsonl") if "loss" in entry)
    assert (step["loss_scale"], step["skipped"]) == (2.0**19, True)
    end = read_checkpoint(run)
    assert end.training.optimizer_step == 1
    for found, expected in zip(tensors(end), tensors(start), strict=True):
        assert (found == expected).all()


def test_the_overflow_is_in_the_part_of_the_second_process(tmp_path):
    """FSDP2 divides each parameter along its first axis."""
    start = overflowing(tmp_path)
    model = load_model(start, torch.float32, torch.device("cpu"), FastOps(loss_rows=512))
    tokens = torch.full((4, 16), 5)
    (loss_fn(model, tokens, tokens, "float16") * start.training.loss_scale.scale).backward()
    overflows = [~p.grad.isfinite() for p in model.parameters()]
    assert any(o[len(o) // 2 :].any() for o in overflows)
    assert not any(o[: len(o) // 2].any() for o in overflows)
