"""Training: each twin beside Hugging Face's GPT-2 trained in float64 with `torch.optim.AdamW`."""

import importlib
import math

import numpy as np
import pytest
import torch

from gpt_common.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from gpt_common.config import (
    DataOptions,
    ModelOptions,
    OptimizerOptions,
    OutputOptions,
    TrainConfig,
)
from gpt_common.data import BatchLoader
from gpt_common.metrics import read_log
from tests.conftest import random_weights
from tests.parity.twins import hugging_face_model, relative

STEPS = 12


def rate(step, options):
    """The learning rate, written again."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    if options.lr_schedule == "constant":
        return options.learning_rate
    along = (step - options.warmup_steps) / (options.steps - options.warmup_steps)
    span = options.learning_rate - options.min_lr
    return options.min_lr + span * (1 + math.cos(math.pi * along)) / 2


def train_hugging_face(config, weights, tokens, options):
    """Return losses, gradient norms, and final weights of plain training in float64."""
    model = hugging_face_model(config, weights)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": others, "weight_decay": 0},
        ],
        betas=(options.beta1, options.beta2),
        eps=options.eps,
    )
    loader, losses, norms = BatchLoader(tokens, 2, 11), [], []
    for step in range(options.steps):
        total = 0.0
        for _ in range(options.grad_accum):
            x, y = (torch.from_numpy(a).long() for a in loader.next_batch())
            logits = model(x).logits.flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, y.flatten()) / options.grad_accum
            loss.backward()
            total += loss.item()
        clip = options.grad_clip or math.inf
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item())
        losses.append(total)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options)
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    moments = {
        moment: {name: optimizer.state[p][moment].numpy() for name, p in model.named_parameters()}
        for moment in ("exp_avg", "exp_avg_sq")
    }
    return losses, norms, weights, moments


VARIANTS = {
    "as it comes": OptimizerOptions(steps=STEPS, learning_rate=1e-3),
    "warm-up and cosine": OptimizerOptions(
        steps=STEPS, learning_rate=3e-3, min_lr=1e-4, warmup_steps=4, lr_schedule="cosine"
    ),
    "accumulation": OptimizerOptions(steps=STEPS, learning_rate=1e-3, grad_accum=3),
    "no clipping, no decay": OptimizerOptions(
        steps=STEPS, learning_rate=1e-3, grad_clip=0, weight_decay=0
    ),
    "heavy decay, other betas": OptimizerOptions(
        steps=STEPS, learning_rate=1e-3, weight_decay=10.0, beta1=0.8, beta2=0.99, eps=1e-4
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_norms_weights_and_moments(framework, variant, odd_config, tmp_path):
    options = VARIANTS[variant]
    weights = random_weights(odd_config, scale=0.1)
    tokens = np.random.default_rng(1).integers(0, 997, 400).astype(np.uint16)
    np.save(tmp_path / "tokens.npy", tokens)
    write_checkpoint(tmp_path / "start", Checkpoint(odd_config, weights))
    config = TrainConfig(
        model=ModelOptions(init=str(tmp_path / "start")),
        data=DataOptions(str(tmp_path / "tokens.npy"), 0.0, batch_size=2, seq_len=11),
        optimizer=options,
        output=OutputOptions(out_dir=str(tmp_path / "run")),
    )
    importlib.import_module(f"gpt_{framework}.train").train(config)
    losses, norms, expected_weights, moments = train_hugging_face(
        odd_config, weights, tokens, options
    )
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert [e["loss"] for e in log] == pytest.approx(losses, rel=1e-6)
    assert [e["grad_norm"] for e in log] == pytest.approx(norms, rel=5e-6)
    final = read_checkpoint(tmp_path / "run")
    # A bias of the keys adds the same to every score of a row: its gradient is 0, in float32 a
    # rounding error of 0, which Adam makes a step of full size in a random direction.
    queries_and_values = np.r_[0:40, 80:120]
    for name, expected in expected_weights.items():
        compared = queries_and_values if name.endswith("c_attn.bias") else slice(None)
        assert relative(final.weights[name][compared], expected[compared]) < 1e-5, name
        for moment in ("exp_avg", "exp_avg_sq"):
            found = getattr(final.training, moment)[name][compared]
            assert relative(found, moments[moment][name][compared]) < 1e-4, (moment, name)
