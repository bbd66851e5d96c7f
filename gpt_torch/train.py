"""Train a GPT-2 in PyTorch: `python -m gpt_torch.train --help`."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import SupportsFloat

import numpy as np
import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import AdamW

from gpt_common import cli
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import Dtype, TrainConfig
from gpt_common.data import BatchLoader
from gpt_common.distributed import Processes, find_world
from gpt_common.dry_run import dry_run
from gpt_common.formats.registry import read_weights
from gpt_common.hardware import processor, tune_malloc
from gpt_common.resume import parse_train_config
from gpt_common.run import MEMORY_OPTIONS, Run, start_run
from gpt_common.run_folder import step_folder
from gpt_common.schedule import learning_rate
from gpt_torch.device import resolve_dtype, select_device, upload
from gpt_torch.evaluate import numpy_logprobs
from gpt_torch.fast import FastOps, choose_fast_ops
from gpt_torch.generate import generate_texts, load_model
from gpt_torch.loss_scale import (
    create_scaler,
    current_scale,
    scale_loss,
    scale_metrics,
    stored_scale,
)
from gpt_torch.memory import planned, target
from gpt_torch.model import GPT
from gpt_torch.optimizer import (
    clip_and_update,
    create_optimizer,
    optimizer_step,
    restore_state,
    state_to_hf,
)
from gpt_torch.parallel import (
    gathered,
    make_mesh,
    mean,
    reshard,
    set_gradient_sync,
    start_processes,
    sum_gradients,
    whole,
)
from gpt_torch.precision import autocast, master_dtype
from gpt_torch.weights import lazy_hf


@dataclass
class TrainState:
    """What a training step updates."""

    model: GPT
    optimizer: AdamW
    scaler: GradScaler | None = None  # of float16


def create_state(
    start: Checkpoint,
    config: TrainConfig,
    device: torch.device,
    ops: FastOps | None = None,
    mesh: DeviceMesh | None = None,
) -> TrainState:
    """Return the state at the start of a run, or of a resumed run, on the devices."""
    model = load_model(start, master_dtype(config.runtime.dtype), device, ops, mesh)
    optimizer = create_optimizer(model, config.optimizer)
    if start.training:
        restore_state(optimizer, model, start.config, start.training)
    scaler = create_scaler(config.runtime.dtype, start.training, device)
    return TrainState(model, optimizer, scaler)


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

    `x` and `y` are `(A, B, T)`: this process's rows of A batches, whose gradients are averaged.
    """
    losses = []
    for number, (x_micro, y_micro) in enumerate(zip(x, y, strict=True), start=1):
        set_gradient_sync(state.model, number == len(x))
        loss = loss_fn(state.model, x_micro, y_micro, dtype) / len(x)
        scale_loss(loss, state.scaler).backward()
        losses.append(loss.detach())
    scale = current_scale(state.scaler, x.device)
    norm = update(state.model, state.optimizer, state.scaler, learning_rate, grad_clip)
    state.optimizer.zero_grad()
    metrics = {"loss": mean(torch.stack(losses).sum()), "grad_norm": whole(norm)}
    return metrics | scale_metrics(scale, current_scale(state.scaler, x.device))


def compile_train_step(model: GPT) -> Callable[..., dict[str, Tensor]]:
    """Return `train_step` with the loss, its gradients and the update compiled at the first call.

    The model keeps the compiled loss, so that evaluation uses it, too.
    """
    model.loss = torch.compile(model.loss)  # type: ignore[method-assign]
    # torch.compile warns that it leaves out what `AdamW.step` tells the profiler.
    logger = logging.getLogger("torch._dynamo.variables.ctx_manager")
    logger.addFilter(lambda record: not record.getMessage().startswith("Profiler record function"))
    compiled = torch.compile(clip_and_update)

    def update(
        model: GPT,
        optimizer: AdamW,
        scaler: GradScaler | None,
        learning_rate: float,
        grad_clip: float,
    ) -> Tensor:
        # torch.compile would compile again for each new number, but not for each new tensor.
        rate = torch.tensor(learning_rate, dtype=torch.float64)
        return compiled(model, optimizer, scaler, rate, grad_clip)

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
    """Return the mean loss over a loader's first `steps` batches, or None once `stopped()`."""
    loader.restore({"position": 0})
    losses = []
    for _ in range(steps):
        if stopped():
            return None
        x, y = (to_device(a, device) for a in loader.next_batch())
        losses.append(loss_fn(model, x, y, dtype))
    return mean(torch.stack(losses).mean()).item()


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return int32 tokens as int64, which torch needs for targets, on the device."""
    return upload(array, device).long()


class AsyncScalar:
    """A number that is copied from the GPU asynchronously.

    Reading it waits for the work that computes it, not for a step that was started later.
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
    """Return a step's metrics for the log, which reads them after the next step has started."""
    on_cuda = metrics["loss"].is_cuda
    return {name: AsyncScalar(number) for name, number in metrics.items()} if on_cuda else metrics


def save(run: Run, state: TrainState, step: int) -> Path:
    """Write the checkpoint after `step` updates."""
    reshard(state.model)
    config = run.start.config
    weights = lazy_hf(dict(state.model.named_parameters()), config)
    moments = state_to_hf(state.optimizer, state.model, config)
    counts = optimizer_step(state.optimizer), stored_scale(state.scaler)
    return run.save(step, weights, *moments, *counts)


def after_step(run: Run, state: TrainState, step: int, dtype: Dtype, device: torch.device) -> bool:
    """Evaluate, save and sample if due after `step` updates; return whether the run should stop."""
    output, stop = run.config.output, run.stopped()
    if run.val_loader and not stop and run.is_due(output.eval_every, step):
        run.log.flush()
        batches = run.val_loader, output.eval_steps
        val_loss = evaluate(state.model, *batches, dtype, device, run.stopped)
        if val_loss is None:
            stop = True
        else:
            run.log.evaluation(step, val_loss)
    if run.hellaswag and not stop and run.is_due(output.eval_every, step):
        with gathered(state.model) as model:
            counts = run.answer_hellaswag(numpy_logprobs(model, dtype))
        if counts is None:
            stop = True
        else:
            run.log.hellaswag(step, counts)
    if stop or run.is_due(output.checkpoint_every, step):
        save(run, state, step)
    if run.samples and not stop and run.is_due(output.sample_every, step):
        run.log.flush()
        with gathered(state.model) as model:
            run.log.samples(step, generate_texts(model, *run.samples, dtype))
    return stop


def train(config: TrainConfig) -> Path | None:
    """Train until the last step or until a signal; return the folder of the last checkpoint.

    A dry run returns None.
    """
    runtime = config.runtime
    dtype = resolve_dtype(runtime.dtype, runtime.device)
    device = select_device(runtime.device, dtype)
    with start_processes(find_world(), device, config.parallel.timeout) as processes:
        return train_together(config, processes, dtype, device)


def train_together(
    config: TrainConfig, processes: Processes, dtype: Dtype, device: torch.device
) -> Path | None:
    """Return `train` of processes that are connected; when it ends nothing holds a mesh."""
    runtime, options = config.runtime, config.optimizer
    mesh = make_mesh(config, device)
    ops = None
    if runtime.fast_ops:
        ops = choose_fast_ops(device.type, dtype, processor(), runtime.compile)
    plan = config.with_dtype(dtype), "torch", target(device, ops, dtype, mesh), read_weights
    if config.output.dry_run:
        processes.on_first(lambda: dry_run(*plan))
        return None
    run = start_run(*plan, processes)
    state = create_state(run.start, run.config, device, ops, mesh)
    step_fn = compile_train_step(state.model) if runtime.compile else train_step
    sum_gradients(state.model, mesh)
    with run:
        for step in range(run.first_step, options.steps):
            x, y = (to_device(a, device) for a in run.next_batches())
            rate = learning_rate(step, options)
            metrics = step_fn(state, x, y, rate, options.grad_clip, dtype)
            run.log.step(step, rate, async_to_host(metrics))
            run.remove_older()
            if after_step(run, state, step + 1, dtype, device):
                break
    return step_folder(run.folder, step + 1)


def main() -> None:
    """Run the command line."""
    config = parse_train_config("gpt_torch.train")
    if config.parallel.gpus:
        dry_run(*planned(config), read_weights)
        return
    if config.runtime.fast_ops:
        tune_malloc()
    train(config)


if __name__ == "__main__":
    cli.run(main, MEMORY_OPTIONS)
