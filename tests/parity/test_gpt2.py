"""GPT-2 124M against the reference: minutes each, for `make parity`."""

import dataclasses

import pytest

from gpt_common.config import OptimizerOptions
from tests.parity import reference
from tests.parity.comparisons import (
    SHAPE,
    first_update,
    fresh_gpt2,
    grown_gpt2,
    passes,
    real_tokens,
    runs,
)
from tests.parity.hugging_face import outside_run
from tests.parity.tolerances import (
    LIMITS,
    loss_differences,
    named_differences,
    outcome_differences,
    training_differences,
    without_key_bias,
)
from tests.parity.twins import train_twin

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("start", "dtype", "B", "T"),
    [
        (fresh_gpt2, "float32", 2, 256),
        (grown_gpt2, "float32", 2, 256),
        (grown_gpt2, "bfloat16", 1, 64),  # minutes for more, where the processor emulates it
    ],
)
def test_layers_loss_and_every_gradient(start, dtype, B, T, agree):
    x, y = reference.batch(real_tokens(), 0, B, T)
    for framework, _, found, expected in passes(start(), x, y, (dtype,)):
        agree(f"124M {dtype} {framework}", outcome_differences(found, expected), LIMITS[dtype])


def test_weights_and_moments_after_1_and_10_steps(agree):
    options, tokens = OptimizerOptions(), real_tokens()
    for framework, _, step, found, expected in runs(grown_gpt2(), tokens, *SHAPE, options, (1, 10)):
        differences = training_differences(found, expected)
        agree(f"124M {step} steps {framework}", differences, LIMITS["float32"])


def test_the_first_update_of_a_fresh_model(framework, tmp_path, agree):
    """Its biases are 0, so that after one step they are the update alone, g / (|g| + eps).

    Where |g| is near eps, 1e-8, that carries the gradient's rounding over in full: 1e-4 of a bias.
    What the optimizer itself does is right: the weights follow from the moments.
    """
    start, options = fresh_gpt2(), OptimizerOptions(steps=1)
    found = train_twin(framework, start, real_tokens(), *SHAPE, options, tmp_path)
    expected = first_update(found, start, options)
    differences = {"weights": named_differences(without_key_bias(found.weights), expected)}
    agree(f"124M first update {framework}", differences, LIMITS["float32"])


@pytest.fixture(scope="module")
def fifty_losses():
    """Those of the reference, and of transformers' GPT-2."""
    options, start, tokens = OptimizerOptions(steps=50), fresh_gpt2(), real_tokens()
    expected = reference.train(start.config, start.weights, tokens, *SHAPE, options)
    outside = outside_run(start, tokens, *SHAPE, options, "float32")
    return expected.losses, outside.losses


def test_fifty_steps(framework, fifty_losses, tmp_path, agree):
    options = dataclasses.replace(OptimizerOptions(), steps=50)
    found = train_twin(framework, fresh_gpt2(), real_tokens(), *SHAPE, options, tmp_path)
    expected, outside = fifty_losses
    agree(f"124M 50 steps {framework}", loss_differences(found.losses, expected), LIMITS["float32"])
    differences = loss_differences(found.losses, outside)
    agree(f"124M 50 steps {framework}, transformers", differences, LIMITS["float32"])
