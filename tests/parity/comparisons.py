"""Models, data, and the loops that compare both twins with the reference, for tests and report."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import PRESETS, Device, Dtype, GPTConfig, OptimizerOptions
from gpt_common.data import load_tokens
from gpt_common.initialization import initialize_weights
from gpt_common.weights import Array, Weights
from tests.parity import reference
from tests.parity.reference import Outcome, ReferenceGPT, Training
from tests.parity.tolerances import without_key_bias
from tests.parity.twins import FRAMEWORKS, outcome, train_twin

GPT2 = PRESETS["gpt2"]
SMALL = GPTConfig(n_layer=3, n_head=5, n_embd=40, block_size=23, vocab_size=997)
SHAPE = 4, 32  # B, T of the runs of GPT-2
SETTINGS = {
    "as it comes": {},
    "greedy": {"temperature": 0.0},
    "nucleus": {"temperature": 1.7, "top_k": 0, "top_p": 0.7},
    "all at once": {
        "temperature": 0.8,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "seed": 3,
    },
}


def fresh_gpt2() -> Checkpoint:
    """Return GPT-2 124M as training starts."""
    return Checkpoint(GPT2, initialize_weights(GPT2, seed=1337))


def grown_gpt2() -> Checkpoint:
    """Return the same with biases and norms that have left 0 and 1, as in every trained model."""
    random = np.random.default_rng(0)
    weights = {
        name: w + 0.02 * random.standard_normal(w.shape).astype(np.float32) if w.ndim == 1 else w
        for name, w in fresh_gpt2().weights.items()
    }
    return Checkpoint(GPT2, weights)


def real_tokens(vocab_size: int = GPT2.vocab_size) -> Array:
    """Return the bundled text's tokens; for a smaller vocabulary they are folded into it."""
    return load_tokens("shakespeare")[:] % vocab_size


def ragged_prompts(config: GPTConfig, count: int) -> list[list[int]]:
    """Return random prompts of 1 to 11 tokens."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 12, count)
    return [random.integers(0, config.vocab_size, length).tolist() for length in lengths]


def passes(
    start: Checkpoint,
    x: Array,
    y: Array,
    dtypes: tuple[Dtype, ...],
    device: Device = "cpu",
    frameworks: tuple[str, ...] = FRAMEWORKS,
) -> Iterator[tuple[str, Dtype, Outcome, Outcome]]:
    """Yield framework, dtype, what the twin makes of a batch and what the reference does."""
    expected = ReferenceGPT(start.config, start.weights)(x, y)
    for dtype in dtypes:
        for framework in frameworks:
            found = outcome(framework, start.config, start.weights, x, y, dtype, device)
            yield framework, dtype, found, expected


def runs(
    start: Checkpoint,
    tokens: Array,
    B: int,
    T: int,
    options: OptimizerOptions,
    lengths: tuple[int, ...],
    dtypes: tuple[Dtype, ...] = ("float32",),
    device: Device = "cpu",
    frameworks: tuple[str, ...] = FRAMEWORKS,
    **runtime: Any,
) -> Iterator[tuple[str, Dtype, int, Training, Training]]:
    """Yield framework, dtype, length, and what a run of that many steps left in twin and reference.

    The learning rate must be constant: then a longer run begins as a shorter one.
    """
    assert options.lr_schedule == "constant"
    options = dataclasses.replace(options, steps=max(lengths))
    steps = reference.training_steps(start.config, start.weights, tokens, B, T, options)
    for step, expected in enumerate(steps, 1):
        if step not in lengths:
            continue
        run = dataclasses.replace(options, steps=step)
        for dtype in dtypes:
            for framework in frameworks:
                with TemporaryDirectory() as folder:
                    how = Path(folder), dtype, device
                    found = train_twin(framework, start, tokens, B, T, run, *how, **runtime)
                yield framework, dtype, step, found, expected


def first_update(found: Training, start: Checkpoint, options: OptimizerOptions) -> Weights:
    """Return the weights that AdamW's formula gives, in float64, from a first step's own moments.

    It tells the rounding of the update from that of the gradients.
    """
    weights = {}
    for name, w in start.weights.items():
        m, v = found.exp_avg[name].astype(np.float64), found.exp_avg_sq[name].astype(np.float64)
        root = np.sqrt(v / (1 - options.beta2))
        decay = options.weight_decay * w if w.ndim > 1 else 0.0
        update = m / (1 - options.beta1) / (root + options.eps) + decay
        weights[name] = w - options.learning_rate * update
    return without_key_bias(weights)
