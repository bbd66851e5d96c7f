"""What agreement means: how a difference is measured, and how large it may be.

Each limit is a small factor above what was seen (docs/numerics.md has the figures) and never above
the project's promise, which stands in the comment.
"""

from dataclasses import dataclass

import numpy as np

from gpt_common.config import Dtype
from gpt_common.weights import Array, Weights
from tests.parity.reference import Outcome, Training


@dataclass(frozen=True)
class Limits:
    """The largest differences: of arrays ||d|| / ||expected||, of numbers |d / expected|."""

    layers: float
    logits: float
    loss: float
    gradients: float
    weights: float  # and moments, after 1 and 10 updates
    first_losses: float  # of the first ten steps of a run
    losses: float  # of a whole run
    norms: float


LIMITS: dict[Dtype, Limits] = {
    "float64": Limits(
        layers=1e-14,
        logits=1e-14,  # 1e-12
        loss=1e-14,  # 1e-13
        gradients=5e-14,  # 1e-11
        weights=1e-12,  # 1e-11
        first_losses=1e-13,
        losses=1e-12,  # 1e-8
        norms=1e-12,
    ),
    "float32": Limits(
        layers=4e-6,
        logits=2e-6,  # 2e-6
        loss=5e-7,  # 5e-7
        gradients=3e-6,  # 3e-6
        weights=1e-5,  # 1e-5
        first_losses=2e-6,  # 2e-6
        losses=5e-5,  # 5e-5
        norms=5e-6,
    ),
    "bfloat16": Limits(
        layers=2e-2,
        logits=2e-2,
        loss=4e-3,
        gradients=4e-2,
        weights=1.0,
        first_losses=1e-3,
        losses=1e-3,
        norms=1e-2,
    ),
}


def relative(found: Array, expected: Array) -> float:
    """Return ||found - expected|| / ||expected||; where zero is expected, ||found||."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    scale = np.linalg.norm(expected) or 1.0
    return float(np.linalg.norm(found - expected) / scale)


def each_relative(found: list[float], expected: list[float]) -> Array:
    """Return |found / expected - 1| of each number of two lists of one length."""
    assert len(found) == len(expected)
    return np.abs(np.array(found) / np.array(expected) - 1)


def named_differences(found: Weights, expected: Weights) -> dict[str, float]:
    """Return the relative difference of every array; the names must be the same."""
    assert found.keys() == expected.keys()
    assert all(found[name].shape == array.shape for name, array in expected.items())
    return {name: relative(found[name], array) for name, array in expected.items()}


def outcome_differences(found: Outcome, expected: Outcome) -> dict[str, dict[str, float]]:
    """Return the differences of a forward and backward pass, under the names of `Limits`."""
    layers = named_differences(found.layers, {n: expected.layers[n] for n in found.layers})
    return {
        "logits": {"logits": layers.pop("logits")},
        "layers": layers,
        "loss": {"loss": abs(found.loss / expected.loss - 1)},
        "gradients": named_differences(found.gradients, expected.gradients),
    }


def training_differences(found: Training, expected: Training) -> dict[str, dict[str, float]]:
    """Return the differences of a run, under the names of `Limits`.

    Without the bias of the keys: it adds the same to every score of a row, so its gradient is 0, in
    float32 a rounding error of 0, which Adam makes a step of full size in a random direction.
    """
    losses = each_relative(found.losses, expected.losses)
    states = {
        f"{kind} {name}": error
        for kind in ("weights", "exp_avg", "exp_avg_sq")
        for name, error in named_differences(
            without_key_bias(getattr(found, kind)), without_key_bias(getattr(expected, kind))
        ).items()
    }
    return {
        "first_losses": {"losses": float(losses[:10].max())},
        "losses": {"losses": float(losses.max())},
        "norms": {"norms": float(each_relative(found.norms, expected.norms).max())},
        "weights": states,
    }


def without_key_bias(weights: Weights) -> Weights:
    """Return the weights with the queries' and values' part of each `c_attn.bias`."""
    return {
        name: np.delete(array, slice(len(array) // 3, 2 * len(array) // 3))
        if name.endswith("c_attn.bias")
        else array
        for name, array in weights.items()
    }
