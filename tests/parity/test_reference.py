"""The reference against finite differences, and against Hugging Face's GPT-2 in float64."""

import dataclasses

import numpy as np
import pytest

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import OptimizerOptions
from tests.conftest import random_weights
from tests.parity import reference
from tests.parity.hugging_face import hugging_face_outcome, hugging_face_training
from tests.parity.reference import ReferenceGPT
from tests.parity.tolerances import (
    FAST_LIMITS,
    LIMITS,
    PROMISES,
    outcome_differences,
    training_differences,
)


def random_batch(config, B, T, seed=5):
    tokens = np.random.default_rng(seed).integers(0, config.vocab_size, (B, T + 1))
    return tokens[:, :-1], tokens[:, 1:]


def test_what_is_allowed_is_within_what_is_promised():
    for dtype, promises in PROMISES.items():
        for quantity, promise in promises.items():
            assert getattr(LIMITS[dtype], quantity) <= promise
    for dtype, limits in FAST_LIMITS.items():
        for quantity, limit in vars(limits).items():
            assert limit <= getattr(LIMITS[dtype], quantity)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_gradients_are_the_slopes_of_the_loss(activation, odd_config):
    """Along a random direction in every weight, by central differences."""
    config = dataclasses.replace(odd_config, activation=activation)
    weights = random_weights(config)
    x, y = random_batch(config, 2, 11)
    gradients = ReferenceGPT(config, weights)(x, y).gradients
    assert gradients.keys() == weights.keys()
    random, step = np.random.default_rng(0), 1e-5
    for name, weight in weights.items():
        direction = random.standard_normal(weight.shape)
        ends = [
            ReferenceGPT(config, weights | {name: weight + side * step * direction})(x, y).loss
            for side in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(np.sum(gradients[name] * direction), rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
@pytest.mark.parametrize(("B", "T"), [(3, 17), (2, 23), (1, 1)])
def test_forward_and_backward_are_hugging_faces(activation, B, T, odd_config, agree):
    config = dataclasses.replace(odd_config, activation=activation)
    weights = random_weights(config)
    x, y = random_batch(config, B, T)
    expected = hugging_face_outcome(config, weights, x, y)
    found = ReferenceGPT(config, weights)(x, y)
    differences = outcome_differences(found, expected)
    agree("reference against transformers", differences, FAST_LIMITS["float64"])


@pytest.mark.parametrize("changes", [{}, {"grad_clip": 0.0, "weight_decay": 0.0}, {"eps": 1e-3}])
def test_training_is_torchs(changes, odd_config, agree):
    options = dataclasses.replace(OptimizerOptions(steps=12, learning_rate=1e-3), **changes)
    start = Checkpoint(odd_config, random_weights(odd_config, scale=0.1))
    tokens = np.random.default_rng(1).integers(0, 997, 400)
    batches = (reference.batch(tokens, k, 2, 11) for k in range(options.steps))
    rates = [options.learning_rate] * options.steps
    expected = hugging_face_training(start, batches, options, rates)
    found = reference.train(odd_config, start.weights, tokens, 2, 11, options)
    differences = training_differences(found, expected)
    agree("reference against transformers", differences, FAST_LIMITS["float64"])
