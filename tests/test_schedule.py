import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_common.config import OptimizerOptions
from gpt_common.errors import InputError
from gpt_common.metrics import read_log
from gpt_common.schedule import learning_rate
from tests.conftest import TINY, assert_one_line_error


def test_constant_is_the_default():
    assert {learning_rate(step, OptimizerOptions()) for step in range(100)} == {3e-4}


def test_warm_up_reaches_the_peak_at_its_last_step():
    options = OptimizerOptions(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(s, options) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_cosine_by_hand():
    options = OptimizerOptions(
        learning_rate=1.0, min_lr=0.1, warmup_steps=2, steps=10, lr_schedule="cosine"
    )
    rates = [learning_rate(s, options) for s in range(12)]
    assert rates[:3] == [0.5, 1, 1]
    assert rates[4] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert rates[6] == pytest.approx(0.55)  # half-way
    assert rates[10] == rates[11] == pytest.approx(0.1)


def test_the_warm_up_of_nanogpt_reaches_the_peak_a_step_later():
    options = OptimizerOptions(learning_rate=1.0, warmup_steps=4, warmup_peak="next")
    assert [learning_rate(s, options) for s in range(6)] == [0.2, 0.4, 0.6, 0.8, 1, 1]


@pytest.mark.parametrize("steps", [3, 10, 50])
def test_the_cosine_has_an_end_of_its_own(steps):
    """However long the run is; past it the rate stays where it is."""
    same = OptimizerOptions(min_lr=1e-5, warmup_steps=2, steps=10, lr_schedule="cosine")
    options = replace(same, steps=steps, lr_decay_steps=10)
    assert [learning_rate(s, options) for s in range(11)] == [
        learning_rate(s, same) for s in range(11)
    ]
    assert {learning_rate(s, options) for s in range(10, 60)} == {1e-5}


def test_a_warm_up_beyond_the_end_of_the_cosine():
    options = OptimizerOptions(
        learning_rate=1.0, min_lr=0.1, warmup_steps=8, lr_decay_steps=4, lr_schedule="cosine"
    )
    assert [learning_rate(s, options) for s in (3, 7, 8, 9)] == [0.5, 1.0, 0.1, 0.1]


def test_an_end_must_be_positive():
    with pytest.raises(InputError, match="lr_decay_steps must be positive, got 0"):
        OptimizerOptions(lr_decay_steps=0)


CURVE = ("--lr_schedule", "cosine", "--learning_rate", 1e-2, "--warmup_steps", 2)


def rates(run):
    steps = [entry for entry in read_log(run / "log.jsonl") if "loss" in entry]
    return {entry["step"]: entry["learning_rate"] for entry in steps}


def test_a_resumed_run_keeps_its_curve(call, train, tmp_path):
    run = tmp_path / "run"
    curve = (*CURVE, "--lr_decay_steps", 4, "--warmup_peak", "next")
    train("torch", *TINY, *curve, "--steps", 3, "--out_dir", run)
    result = call("gpt_torch.train", "--resume", run, "--steps", 6, "--lr_decay_steps", 6)
    assert_one_line_error(result, "lr_decay_steps is 4, got 6")
    train("torch", "--resume", run, "--steps", 6)
    options = OptimizerOptions(
        learning_rate=1e-2, warmup_steps=2, warmup_peak="next", lr_schedule="cosine",
        lr_decay_steps=4,
    )  # fmt: skip
    assert rates(run) == {step: learning_rate(step, options) for step in range(6)}


def test_a_run_from_before_these_options_goes_on_as_it_was(train, tmp_path):
    for name in ("old", "new"):
        run = tmp_path / name
        train("torch", *TINY, *CURVE, "--steps", 3, "--out_dir", run)
        if name == "old":
            file = run / "latest" / "training_state.json"
            state = json.loads(file.read_text())
            del state["optimizer_step"], state["source"], state["options"]["model"]["bias"]
            del state["options"]["optimizer"]["warmup_peak"]
            del state["options"]["optimizer"]["lr_decay_steps"]
            file.write_text(json.dumps(state))
        train("torch", "--resume", run, "--steps", 6)
    assert len(rates(tmp_path / "old")) == 6
    assert rates(tmp_path / "old") == rates(tmp_path / "new")
    for name in ("model.safetensors", "optimizer.safetensors"):
        first, second = (tmp_path / r / "latest" / name for r in ("old", "new"))
        assert first.read_bytes() == second.read_bytes()


@given(
    steps=st.integers(1, 500),
    warmup=st.integers(0, 50),
    schedule=st.sampled_from(["constant", "cosine"]),
)
def test_rises_then_never_rises_and_stays_in_bounds(steps, warmup, schedule):
    options = OptimizerOptions(steps=steps, warmup_steps=warmup, lr_schedule=schedule)
    rates = [learning_rate(s, options) for s in range(steps)]
    up, down = rates[:warmup], rates[warmup:]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert all(0 < rate <= options.learning_rate for rate in rates)
    assert all(rate >= options.min_lr for rate in down)
