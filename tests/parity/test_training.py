"""Training with each twin's own command against the reference: losses, norms, weights, moments."""

import dataclasses
import importlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import OptimizerOptions
from gpt_common.data import BatchLoader
from gpt_common.metrics import read_log
from gpt_torch import train as torch_train
from tests.conftest import random_weights
from tests.parity import reference
from tests.parity.comparisons import SMALL, real_tokens
from tests.parity.reference import ReferenceGPT
from tests.parity.tolerances import (
    FAST_LIMITS,
    LIMITS,
    loss_differences,
    training_differences,
)
from tests.parity.twins import evaluation, train_twin

B, T = 2, 11

VARIANTS = {
    "as it comes": {},
    "one step": {"steps": 1},
    "warm-up and cosine": {
        "learning_rate": 3e-3,
        "min_lr": 1e-4,
        "warmup_steps": 4,
        "lr_schedule": "cosine",
    },
    "accumulation": {"grad_accum": 3},
    "no clipping, no decay": {"grad_clip": 0.0, "weight_decay": 0.0},
    "clipping that never acts": {"grad_clip": 1e3},
    "heavy decay, other betas": {"weight_decay": 10.0, "beta1": 0.8, "beta2": 0.99, "eps": 1e-4},
}


@pytest.fixture
def start(odd_config):
    return Checkpoint(odd_config, random_weights(odd_config, scale=0.1))


@pytest.fixture
def tokens():
    """Twelve steps of them are more than once round."""
    return np.random.default_rng(1).integers(0, 997, 9 * B * T + 5)


def adamw(**changes) -> OptimizerOptions:
    return dataclasses.replace(OptimizerOptions(steps=12, learning_rate=1e-3), **changes)


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        *((variant, "float64") for variant in VARIANTS),
        *((variant, "float32") for variant in ("as it comes", "warm-up and cosine")),
        *(("as it comes", dtype) for dtype in ("bfloat16", "float16")),
    ],
)
def test_every_step_and_what_is_left(framework, variant, dtype, start, tokens, tmp_path, agree):
    options = adamw(**VARIANTS[variant])
    found = train_twin(framework, start, tokens, B, T, options, tmp_path, dtype)
    expected = reference.train(start.config, start.weights, tokens, B, T, options)
    what = f"training {dtype} {framework}"
    agree(what, training_differences(found, expected), FAST_LIMITS[dtype])


def test_the_variants_are_what_they_say(start, tokens):
    """Clipping acts in every step or in none, and the walk goes round."""
    run = reference.train(start.config, start.weights, tokens, B, T, adamw())
    assert min(run.norms) > adamw().grad_clip
    assert max(run.norms) < VARIANTS["clipping that never acts"]["grad_clip"]
    assert len(tokens) < adamw().steps * B * T


def test_batches_accumulated_are_one_large_batch(framework, start, tokens, tmp_path, agree):
    """An update of 3 batches of 2 rows, and one of 1 batch of the same 6 rows."""
    parts, whole = (
        train_twin(framework, start, tokens, rows, T, options, tmp_path / name, "float64")
        for name, rows, options in (
            ("parts", 2, adamw(steps=3, grad_accum=3)),
            ("whole", 6, adamw(steps=3)),
        )
    )
    differences = training_differences(parts, whole)
    agree(f"accumulation float64 {framework}", differences, FAST_LIMITS["float64"])


def test_evaluation_is_the_mean_over_the_first_batches(framework, start, tokens):
    """Wherever the loader stands, and the same batches each time."""
    loader = BatchLoader(tokens, B, T)
    batches = [loader.next_batch() for _ in range(3)]
    model = ReferenceGPT(start.config, start.weights)
    expected = np.mean([model(x, y).loss for x, y in batches])
    for _ in range(2):
        found = evaluation(framework, start, loader, 3)
        assert found == pytest.approx(expected, rel=1e-14)


def test_evaluation_keeps_no_graph(start, tokens, monkeypatch):
    """Else it holds what every batch would need for its gradients until the last is done."""
    losses, loss_fn = [], torch_train.loss_fn
    monkeypatch.setattr(torch_train, "loss_fn", lambda *a: losses.append(loss_fn(*a)) or losses[-1])
    evaluation("torch", start, BatchLoader(tokens, B, T), 3)
    assert [loss.requires_grad for loss in losses] == [False] * 3


def test_the_norm_of_a_gradient_as_large_as_the_embedding_of_gpt2(framework):
    """Rows as uneven as words are in a text: added one by one in float32, small ones are lost."""
    gradient = np.random.default_rng(0).standard_normal((50304, 768), np.float32)
    gradient /= np.arange(1, 50305, dtype=np.float32)[:, None]
    wrap = torch.from_numpy if framework == "torch" else jax.numpy.asarray
    norm = importlib.import_module(f"gpt_{framework}.optimizer").global_norm([wrap(gradient)])
    assert norm.item() == pytest.approx(np.linalg.norm(gradient.astype(np.float64)), rel=5e-7)


@pytest.mark.parametrize("steps", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_long_run(framework, steps, tmp_path, agree):
    """Real text, its tokens folded into a small vocabulary, in float64.

    With three times this learning rate training is chaotic: from step 100 to 200 the difference of
    the losses grows from 4e-16 to 1e-12, and over 1,000 to 7e-11.
    """
    options = adamw(steps=steps, warmup_steps=10, lr_schedule="cosine")
    start = Checkpoint(SMALL, random_weights(SMALL, scale=0.05))
    tokens = real_tokens(SMALL.vocab_size)[:20_000]
    found = train_twin(framework, start, tokens, 4, 23, options, tmp_path, "float64")
    expected = reference.train(SMALL, start.weights, tokens, 4, 23, options)
    assert expected.losses[-1] < expected.losses[0] - 1
    what = f"{steps} steps float64 {framework}"
    limits = FAST_LIMITS if steps == 100 else LIMITS
    agree(what, training_differences(found, expected), limits["float64"])


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_one_thread_and_two(framework, tmp_path, agree):
    one, two = (train_on(cores, framework, tmp_path / str(cores)) for cores in (1, 2))
    agree(f"one thread against two {framework}", loss_differences(one, two), LIMITS["float32"])


def train_on(cores, framework, folder):
    """Return the losses of a run on some of this machine's cores: each starts one thread."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    limited = (
        f"import os, runpy; os.sched_setaffinity(0, {allowed}); "
        f"runpy.run_module('gpt_{framework}.train', run_name='__main__')"
    )
    arguments = ["--preset", "tiny", "--steps", "20", "--device", "cpu", "--out_dir", folder]
    subprocess.run([sys.executable, "-c", limited, *arguments], check=True, capture_output=True)
    return [entry["loss"] for entry in read_log(folder / "log.jsonl") if "loss" in entry]
