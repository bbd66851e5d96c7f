"""transformers' GPT-2, an independent reference, called with numpy arrays."""

from collections.abc import Iterator

import torch
from transformers import GPT2LMHeadModel

from convert.verify import huggingface_model, record
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import Dtype, GPTConfig, OptimizerOptions
from gpt_common.weights import Array, Weights
from tests.parity import reference
from tests.parity.reference import Outcome, Training


def hugging_face(config: GPTConfig, weights: Weights, dtype: Dtype = "float64") -> GPT2LMHeadModel:
    """Return transformers' model, ready to train; its configuration has no dropout."""
    return huggingface_model(Checkpoint(config, weights), dtype).train()


def hugging_face_loss(model: GPT2LMHeadModel, x: Array, y: Array) -> tuple[torch.Tensor, ...]:
    """Return the logits, and the loss as torch computes it."""
    logits = model(torch.from_numpy(x).long()).logits
    targets = torch.from_numpy(y).long().flatten()
    return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)


def hugging_face_outcome(config: GPTConfig, weights: Weights, x: Array, y: Array) -> Outcome:
    model = hugging_face(config, weights)
    layers = record(model.transformer)
    logits, loss = hugging_face_loss(model, x, y)
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return Outcome(layers | {"logits": logits.detach().numpy()}, loss.item(), gradients)


def hugging_face_training(
    start: Checkpoint,
    batches: Iterator[tuple[Array, Array]],
    options: OptimizerOptions,
    rates: list[float],
    dtype: Dtype = "float64",
) -> Training:
    """Train transformers' model with `torch.optim.AdamW`, one batch an update, in a plain loop.

    The norm is summed in float64: in float32 torch's `clip_grad_norm_` is 0.07 % low at 124M.
    """
    model = hugging_face(start.config, start.weights, dtype)
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in named.values() if p.ndim == 1], "weight_decay": 0},
    ]
    betas = (options.beta1, options.beta2)
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=options.eps)
    losses, norms = [], []
    for rate, (x, y) in zip(rates, batches, strict=False):
        _, loss = hugging_face_loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        norm = sum(p.grad.double().square().sum() for p in named.values()).sqrt()
        if options.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(named.values(), options.grad_clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    moments = [
        {name: optimizer.state[p][moment].numpy() for name, p in named.items()}
        for moment in ("exp_avg", "exp_avg_sq")
    ]
    return Training(losses, norms, {k: p.detach().numpy() for k, p in named.items()}, *moments)


def outside_run(
    start: Checkpoint, tokens: Array, B: int, T: int, options: OptimizerOptions, dtype: Dtype
) -> Training:
    """Return what transformers' PyTorch GPT-2 makes of the same weights and batches."""
    batches = (reference.batch(tokens, k, B, T) for k in range(options.steps))
    rates = [options.learning_rate] * options.steps
    return hugging_face_training(start, batches, options, rates, dtype)
