"""Train a GPT-2 in PyTorch: `python -m gpt_torch.train --help`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import SupportsFloat

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW

from gpt_common import cli
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import Dtype, TrainConfig
from gpt_common.data import BatchLoader
from gpt_common.formats.registry import read_weights
from gpt_common.hardware import processor, tune_malloc
from gpt_common.run import SMALLER, Run, parse_train_config, start_run
from gpt_common.schedule import learning_rate
from gpt_torch.device import resolve_dtype, select_device, upload
from gpt_torch.fast import FastOps, choose_fast_ops
from gpt_torch.generate import generate_texts, load_model
from gpt_torch.model import GPT
from gpt_torch.optimizer import (
    clip_and_update,
    create_optimizer,
    restore_state,
    state_to_hf,
)
from gpt_torch.precision import autocast, master_dtype
from gpt_torch.weights import to_hf


@dataclass
class TrainState:
    """What a training step changes."""

    model: GPT
    optimizer: AdamW


def create_state(
    start: Checkpoint, config: TrainConfig, device: torch.device, ops: FastOps | None = None
) -> TrainState:
    """Return the state that a run starts from, or goes on from, on the device."""
    model = load_model(start, master_dtype(config.runtime.dtype), device, ops)
    optimizer = create_optimizer(model, config.optimizer)
    if start.training:
        restore_state(optimizer, model, start.config, start.training)
    return TrainState(model, optimizer)


def loss_fn(model: GPT, x: Tensor, y: Tensor, dtype: Dtype) -> Tensor:
    """Return the mean cross-entropy, in nats, of `(B, T)` tokens `x` and their targets `y`."""
    with autocast(x.device, dtype):
        return model.loss(x, y)


def train_step(
    state: TrainState,
    x: Tensor,
    y: Tensor,
    learning_rate: float,
    grad_clip: float,
    dtype: Dtype,
    update: Callable[..., Tensor] = clip_and_update,
) -> dict[str, Tensor]:
    """Update the state once; return the loss and the gradient norm, both from before the update.

    `x` and `y` are `(A, B, T)`: A batches whose gradients are averaged.
    """
    losses = []
    for x_micro, y_micro in zip(x, y, strict=True):
        loss = loss_fn(state.model, x_micro, y_micro, dtype) / len(x)
        loss.backward()
        losses.append(loss.detach())
    norm = update(state.model, state.optimizer, learning_rate, grad_clip)
    state.optimizer.zero_grad()
    return {"loss": torch.stack(losses).sum(), "grad_norm": norm}


def compile_train_step(model: GPT) -> Callable[..., dict[str, Tensor]]:
    """Return `train_step` with the loss, its gradients and the update compiled at their first call.

    Evaluation takes the compiled loss, too.
    """
    model.loss = torch.compile(model.loss)  # type: ignore[method-assign]
    compiled = torch.compile(clip_and_update)

    def update(model: GPT, optimizer: AdamW, learning_rate: float, grad_clip: float) -> Tensor:
        # A tensor: torch.compile would compile again for each number.
        rate = torch.tensor(learning_rate, dtype=torch.float64)
        return compiled(model, optimizer, rate, grad_clip)

    return partial(train_step, update=update)


@torch.no_grad()
def evaluate(
    model: GPT,
    loader: BatchLoader,
    steps: int,
    dtype: Dtype,
    device: torch.device,
    stopped: Callable[[], bool] = lambda: False,
) -> float | None:
    """Return the mean loss over the first `steps` batches of a loader; None where `stopped()`."""
    loader.restore({"position": 0})
    losses = []
    for _ in range(steps):
        if stopped():
            return None
        x, y = (to_device(a, device) for a in loader.next_batch())
        losses.append(loss_fn(model, x, y, dtype))
    return torch.stack(losses).mean().item()


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return int32 tokens as int64 on the device: what torch's losses take as targets."""
    return upload(array, device).long()


class AsyncScalar:
    """A number on its way from a GPU to a copy of its own.

    Whoever reads it waits for the work that makes it, not for the step that was started since.
    """

    def __init__(self, number: Tensor) -> None:
        self.copy = torch.empty_like(number, device="cpu", pin_memory=True)
        self.copy.copy_(number, non_blocking=True)
        self.ready = torch.cuda.Event()
        self.ready.record()

    def __float__(self) -> float:
        self.ready.synchronize()
        return self.copy.item()


def async_to_host(metrics: dict[str, Tensor]) -> Mapping[str, SupportsFloat]:
    """Return the numbers of a step for the log, which reads them when the next one is started."""
    on_cuda = metrics["loss"].is_cuda
    return {name: AsyncScalar(number) for name, number in metrics.items()} if on_cuda else metrics


def save(run: Run, state: TrainState, step: int) -> Path:
    """Write the checkpoint after `step` updates."""
    config = run.start.config
    weights = to_hf(dict(state.model.named_parameters()), config)
    return run.save(step, weights, *state_to_hf(state.optimizer, state.model, config))


def train(config: TrainConfig) -> Path:
    """Train as `config` says, or until a signal stops it; return the last checkpoint's folder."""
    dtype = resolve_dtype(config.runtime.dtype, config.runtime.device)
    config, options, output = config.with_dtype(dtype), config.optimizer, config.output
    device = select_device(config.runtime.device, dtype)
    fast, compiled = config.runtime.fast_ops, config.runtime.compile
    ops = choose_fast_ops(device.type, dtype, processor(), compiled) if fast else None
    run = start_run(config, "torch", device.type, read_weights)
    state = create_state(run.start, config, device, ops)
    step_fn = compile_train_step(state.model) if compiled else train_step
    log = run.log
    with run:
        for step in range(run.first_step, options.steps):
            x, y = (to_device(a, device) for a in run.next_batches())
            rate = learning_rate(step, options)
            metrics = step_fn(state, x, y, rate, options.grad_clip, dtype)
            log.step(step, rate, async_to_host(metrics))
            run.remove_older()
            done, stop = step + 1, run.stopped()
            if run.val_loader and not stop and run.is_due(output.eval_every, done):
                log.flush()
                loader, batches = run.val_loader, output.eval_steps
                val_loss = evaluate(state.model, loader, batches, dtype, device, run.stopped)
                stop = val_loss is None
                if val_loss is not None:
                    log.evaluation(done, val_loss)
            if stop or run.is_due(output.checkpoint_every, done):
                saved = save(run, state, done)
            if run.samples and not stop and run.is_due(output.sample_every, done):
                log.flush()
                log.samples(done, generate_texts(state.model, *run.samples, dtype))
            if stop:
                break
    return saved


def main() -> None:
    """Run the command line."""
    config = parse_train_config("gpt_torch.train")
    if config.runtime.fast_ops:
        tune_malloc()
    train(config)


if __name__ == "__main__":
    cli.run(main, SMALLER)
