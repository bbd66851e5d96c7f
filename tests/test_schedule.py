import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_common.config import OptimizerOptions
from gpt_common.schedule import learning_rate


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
