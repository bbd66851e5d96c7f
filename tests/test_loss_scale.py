"""Dynamic loss scaling of `--dtype float16`: what overflows is skipped, alike in both twins."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch

from gpt_common.checkpoint import read_checkpoint
from gpt_common.config import GPTConfig, OptimizerOptions
from gpt_common.errors import NonFiniteError
from gpt_common.metrics import RunLog, read_log
from gpt_torch.loss_scale import create_scaler
from gpt_torch.model import GPT
from gpt_torch.optimizer import create_optimizer
from gpt_torch.train import TrainState, compile_train_step, train_step
from tests.conftest import CPU, FRAMEWORKS, TINY, assert_one_line_error
from tests.test_train import entries

FLOAT16 = (*TINY, *CPU, "--dtype", "float16", "--learning_rate", 1e-3, "--vocab_size", 97)


@pytest.fixture
def start(train, tmp_path):
    """Return a function that makes a run of one step with another loss scale in its checkpoint."""

    def start(scale, tracker=0):
        folder, data = tmp_path / "start", tmp_path / "tokens.npy"
        np.save(data, np.random.default_rng(0).integers(0, 97, 2000, np.uint16))
        train("torch", *FLOAT16, "--data", data, "--steps", 1, "--out_dir", folder)
        file = folder / "step_000001" / "training_state.json"
        state = json.loads(file.read_text())
        assert state["loss_scale"] == {"scale": 65536.0, "growth_tracker": 1}
        state["loss_scale"] = {"scale": scale, "growth_tracker": tracker}
        file.write_text(json.dumps(state))
        return folder

    return start


def scales(folder):
    """The scale of each step of a log, and whether its update was skipped."""
    return [(e["loss_scale"], e["skipped"]) for e in read_log(folder / "log.jsonl") if "loss" in e]


def tensors(folder):
    names = ("model.safetensors", "optimizer.safetensors")
    return [(folder / "latest" / name).read_bytes() for name in names]


def test_steps_that_overflow_are_skipped(train, framework, start, tmp_path):
    """They leave weights, moments and AdamW's own step as they were, and halve the scale."""
    before, folder = start(2.0**120, 7), tmp_path / "run"
    output = train(framework, "--resume", before, "--steps", 4, "--out_dir", folder)
    assert scales(folder) == [(2.0**exponent, True) for exponent in (120, 119, 118)]
    assert tensors(folder) == tensors(before)
    training = read_checkpoint(folder).training
    assert (training.step, training.optimizer_step) == (4, 1)
    assert (training.loss_scale.scale, training.loss_scale.growth_tracker) == (2.0**117, 0)
    assert training.loader["position"] == 4 * 32
    assert output.count("| skipped at loss scale 1.32923e+36 |") == 1
    assert [e["grad_norm"] for e in read_log(folder / "log.jsonl") if "loss" in e] == [None] * 3


def test_the_scale_comes_down_alike_in_both_twins(train, start, tmp_path):
    before = start(3 * 2.0**26)
    for framework in FRAMEWORKS:
        folder = tmp_path / framework
        train(framework, "--resume", before, "--steps", 16, "--out_dir", folder)
    ours, theirs = (tmp_path / framework for framework in FRAMEWORKS)
    assert scales(ours) == scales(theirs)
    skipped = [skipped for _, skipped in scales(ours)]
    assert skipped == sorted(skipped, reverse=True)
    assert 3 <= sum(skipped) < 15
    losses = [list(entries(folder, "loss").values()) for folder in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=3e-4)


def test_the_scale_grows_after_2000_steps_in_a_row(train, framework, start, tmp_path):
    before, folder = start(2.0**14, 1997), tmp_path / "run"
    train(framework, "--resume", before, "--steps", 6, "--out_dir", folder)
    assert scales(folder) == [(2.0**exponent, False) for exponent in (14, 14, 14, 15, 15)]
    assert read_checkpoint(folder).training.loss_scale.growth_tracker == 2


def test_resumed_with_a_scale_is_the_same_bit_for_bit(train, framework, start, tmp_path):
    """From a step before the last that is skipped."""
    before, whole, parts = start(2.0**22, 3), tmp_path / "whole", tmp_path / "parts"
    every = ("--checkpoint_every", 1)
    train(framework, "--resume", before, "--steps", 10, *every, "--out_dir", whole)
    skipped = [skipped for _, skipped in scales(whole)]
    assert skipped[0]
    assert not skipped[-1]
    train(framework, "--resume", whole / "step_000002", "--steps", 10, "--out_dir", parts)
    assert tensors(parts) == tensors(whole)
    assert scales(parts) == scales(whole)[1:]
    ours, theirs = (read_checkpoint(folder).training for folder in (whole, parts))
    assert ours.loss_scale == theirs.loss_scale
    assert ours.optimizer_step == theirs.optimizer_step == 10 - sum(skipped)


@pytest.mark.parametrize(("first", "second"), [FRAMEWORKS, FRAMEWORKS[::-1]])
def test_a_run_goes_on_in_the_other_twin(train, first, second, start, tmp_path):
    before, whole, hop = start(3 * 2.0**18), tmp_path / "whole", tmp_path / "hop"
    train(first, "--resume", before, "--steps", 12, "--out_dir", whole)
    train(first, "--resume", before, "--steps", 3, "--out_dir", hop)
    train(second, "--resume", hop, "--steps", 12)
    assert scales(hop) == scales(whole)
    losses = [list(entries(folder, "loss").values()) for folder in (hop, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=3e-4)


def test_other_dtypes_have_no_scale(train, framework, start, tmp_path):
    """Also in a run that began in float16, which may go on in float16 with a new one."""
    before, folder = start(2.0**14), tmp_path / "run"
    train(framework, "--resume", before, "--steps", 2, "--dtype", "float32", "--out_dir", folder)
    assert read_checkpoint(folder).training.loss_scale is None
    assert "loss_scale" not in read_log(folder / "log.jsonl")[0]
    train(framework, "--resume", folder, "--steps", 3, "--dtype", "float16")
    assert read_log(folder / "log.jsonl")[1]["loss_scale"] == 65536


def step(loss=1.0, grad_norm=math.inf, loss_scale=1.0, skipped=1.0):
    return {"loss": loss, "grad_norm": grad_norm, "loss_scale": loss_scale, "skipped": skipped}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            step(),
            "step 4: gradients are not finite at loss scale 1, the minimum is 1; try --dtype ",
        ),
        (step(loss=math.nan, loss_scale=65536.0), "step 4: loss nan, gradient norm inf"),
        (step(loss_scale=65536.0, skipped=0.0), "step 4: loss 1.0, gradient norm inf"),
    ],
)
def test_what_ends_a_run(metrics, message, tmp_path):
    with RunLog(tmp_path, 4, 9, 1, 1) as log, pytest.raises(NonFiniteError, match=message):
        log.step(4, 1e-3, metrics)


def test_a_skipped_step_has_a_line_of_80_columns(tmp_path, capsys):
    with RunLog(tmp_path, 0, 9, 1, 1) as log:
        log.step(4, 1e-3, step(loss=10.8, grad_norm=math.nan, loss_scale=2.0**127))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("step     4 | loss 10.800000 | skipped at loss scale 1.70141e+38 | eta ")
    assert len(line) <= 80
    (entry,) = read_log(tmp_path / "log.jsonl")
    assert (entry["grad_norm"], entry["loss_scale"], entry["skipped"]) == (None, 2.0**127, True)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "loss_scale: expected an object, got 3"),
        ({"scale": 0, "growth_tracker": 0}, "scale: expected a positive number, got 0"),
        ({"scale": 1e39, "growth_tracker": 0}, "scale: expected a positive number, got 1e+39"),
        ({"scale": 1.0, "growth_tracker": 2000}, "growth_tracker: expected 0 to 1999, got 2000"),
        ({"scale": 1.0}, "growth_tracker: expected 0 to 1999, got None"),
    ],
)
def test_an_invalid_scale_is_one_line(call, start, value, words, tmp_path):
    folder = start(2.0)
    file = folder / "step_000001" / "training_state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"loss_scale": value}))
    result = call("gpt_torch.train", "--resume", folder, "--steps", 2)
    assert_one_line_error(result, words)


@pytest.mark.parametrize(
    ("compiled", "fused"),
    [(False, False), (False, True), (True, True)],
)
def test_a_step_of_torch_reads_no_number(compiled, fused, monkeypatch):
    """GradScaler asks whether to skip, and so waits for a GPU, unless AdamW's kernel does it.

    The learning rate, in float64, is on the host.
    """
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=97))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    step = compile_train_step(model) if compiled else train_step
    optimizer = create_optimizer(model, OptimizerOptions())
    for group in optimizer.param_groups:
        group["fused"] = fused
    optimizer._step_supports_amp_scaling = fused
    state = TrainState(model, optimizer, create_scaler("float16", None, torch.device("cpu")))
    x, reads, item = torch.arange(8).view(1, 1, 8), [], torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda t: reads.append(t) or item(t))
    step(state, x, x, 1e-3, 1.0, "float16")
    assert any(number.dtype == torch.float32 for number in reads) == (not fused)
