"""Train a GPT-2 in Flax: `python -m gpt_flax.train --help`."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

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
from gpt_flax.device import (
    enable_compilation_cache,
    has_cudnn_attention,
    resolve_dtype,
    select_device,
)
from gpt_flax.evaluate import numpy_logprobs
from gpt_flax.fast import FastOps, choose_fast_ops, create_model, train_step_options
from gpt_flax.generate import generate_texts
from gpt_flax.loss_scale import (
    Scaler,
    create_scaler,
    scale_metrics,
    stored_scale,
    value_and_scaled_grad,
)
from gpt_flax.memory import planned, target
from gpt_flax.model import GPT
from gpt_flax.optimizer import (
    clip_and_update,
    create_optimizer,
    optimizer_step,
    restore_state,
    state_to_hf,
)
from gpt_flax.parallel import gathered, join_rows, make_mesh, shard_state, start_processes
from gpt_flax.precision import autocast, master_dtype
from gpt_flax.weights import Params, from_hf, lazy_hf


class TrainState(NamedTuple):
    """What a training step updates."""

    params: Params
    opt_state: optax.OptState
    scaler: Scaler | None = None  # of float16


def create_state(
    start: Checkpoint,
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
) -> TrainState:
    """Return the state at the start of a run, or of a resumed run, on the devices."""
    params = from_hf(start.weights, start.config, master_dtype(config.runtime.dtype), mesh)
    opt_state = create_opt_state(params, optimizer, mesh)
    if start.training:
        opt_state = restore_state(opt_state, start.config, start.training, mesh)
    scaler = create_scaler(config.runtime.dtype, start.training, mesh)
    return TrainState(params, opt_state, scaler)


def create_opt_state(
    params: Params, optimizer: optax.GradientTransformation, mesh: Mesh | None
) -> optax.OptState:
    """Return AdamW's first state, divided as the parameters are."""
    if mesh is None:
        return optimizer.init(params)
    shardings = shard_state(jax.eval_shape(optimizer.init, params), mesh)
    return jax.jit(optimizer.init, out_shardings=shardings)(params)


def loss_fn(params: Params, model: GPT, x: Array, y: Array, dtype: Dtype) -> Array:
    """Return the mean cross-entropy, in nats, of `(B, T)` tokens `x` and their targets `y`."""
    with autocast(dtype):
        return model.apply({"params": params}, x, y, method="loss")  # type: ignore[return-value]


def train_step(
    state: TrainState,
    x: Array,
    y: Array,
    learning_rate: float,
    *,
    model: GPT,
    optimizer: optax.GradientTransformation,
    grad_clip: float,
    dtype: Dtype,
) -> tuple[TrainState, dict[str, Array]]:
    """Return the next state, the loss and the gradient norm, both from before the update.

    `x` and `y` are `(A, B, T)`: A batches whose gradients are averaged.
    """

    value_and_grad = value_and_scaled_grad(
        lambda p, x_micro, y_micro: loss_fn(p, model, x_micro, y_micro, dtype) / len(x),
        state.scaler,
    )

    def accumulate(total: tuple[Array, Params], micro: tuple[Array, Array]) -> tuple:
        return optax.tree.add(total, value_and_grad(state.params, *micro)), None

    # Their dtypes are known; `eval_shape` would trace the model once more.
    zeros = jnp.zeros((), optax.tree.dtype(state.params)), optax.tree.zeros_like(state.params)
    (loss, gradients), _ = jax.lax.scan(accumulate, zeros, (x, y))
    params, opt_state, scaler, norm = clip_and_update(
        state.params, gradients, optimizer, state.opt_state, state.scaler, learning_rate, grad_clip
    )
    metrics = {"loss": loss, "grad_norm": norm} | scale_metrics(state.scaler, scaler)
    return TrainState(params, opt_state, scaler), metrics


@cache
def compile_train_step(
    ops: FastOps | None, mesh: Mesh | None = None
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Return `train_step`, compiled at the first call; it donates the old state's buffers.

    On a mesh the new state is divided as the old one is: XLA would choose, else.
    """

    def divided_step(
        state: TrainState, *args: Any, **static: Any
    ) -> tuple[TrainState, dict[str, Array]]:
        new_state, metrics = train_step(state, *args, **static)
        return jax.lax.with_sharding_constraint(new_state, shard_state(new_state, mesh)), metrics

    return jax.jit(
        train_step if mesh is None else divided_step,
        static_argnames=("model", "optimizer", "grad_clip", "dtype"),
        donate_argnames="state",
        compiler_options=train_step_options(ops, jax.__version_info__),
    )


@partial(jax.jit, static_argnames=("model", "dtype"))
def eval_step(params: Params, x: Array, y: Array, *, model: GPT, dtype: Dtype) -> Array:
    """Return the loss of a batch, compiled."""
    return loss_fn(params, model, x, y, dtype)


def evaluate(
    params: Params,
    model: GPT,
    loader: BatchLoader,
    steps: int,
    dtype: Dtype,
    mesh: Mesh | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> float | None:
    """Return the mean loss over a loader's first `steps` batches, or None once `stopped()`."""
    loader.restore({"position": 0})
    losses = []
    for _ in range(steps):
        if stopped():
            return None
        x, y = (join_rows(rows, mesh) for rows in loader.next_batch())
        losses.append(eval_step(params, x, y, model=model, dtype=dtype))
    return jnp.stack(losses).mean().item()


def save(run: Run, state: TrainState, step: int) -> Path:
    """Write the checkpoint after `step` updates."""
    config = run.start.config
    weights, moments = lazy_hf(state.params, config), state_to_hf(state.opt_state, config)
    counts = optimizer_step(state.opt_state), stored_scale(state.scaler)
    return run.save(step, weights, *moments, *counts)


def after_step(
    run: Run, state: TrainState, step: int, dtype: Dtype, model: GPT, mesh: Mesh | None
) -> bool:
    """Evaluate, save and sample if due after `step` updates; return whether the run should stop."""
    output, stop = run.config.output, run.stopped()
    if run.val_loader and not stop and run.is_due(output.eval_every, step):
        run.log.flush()
        batches = run.val_loader, output.eval_steps
        val_loss = evaluate(state.params, model, *batches, dtype, mesh, run.stopped)
        if val_loss is None:
            stop = True
        else:
            run.log.evaluation(step, val_loss)
    if run.hellaswag and not stop and run.is_due(output.eval_every, step):
        params = gathered(state.params, mesh)
        counts = run.answer_hellaswag(numpy_logprobs(params, model, dtype))
        if counts is None:
            stop = True
        else:
            run.log.hellaswag(step, counts)
    if stop or run.is_due(output.checkpoint_every, step):
        save(run, state, step)
    if run.samples and not stop and run.is_due(output.sample_every, step):
        run.log.flush()
        params = gathered(state.params, mesh)
        run.log.samples(step, generate_texts(params, model, *run.samples, dtype))
    return stop


def train(config: TrainConfig) -> Path | None:
    """Train until the last step or until a signal; return the folder of the last checkpoint.

    A dry run returns None.
    """
    runtime = config.runtime
    with start_processes(find_world(), config.parallel.timeout) as processes:
        dtype = resolve_dtype(runtime.dtype, runtime.device)
        device = select_device(runtime.device, dtype)
        return train_together(config, processes, dtype, device)


def train_together(
    config: TrainConfig, processes: Processes, dtype: Dtype, device: jax.Device
) -> Path | None:
    """Return `train` of processes that are connected."""
    options = config.optimizer
    mesh = make_mesh(config, device)
    ops = None
    if config.runtime.fast_ops:
        cudnn = has_cudnn_attention(device, dtype)
        ops = choose_fast_ops(device.platform, dtype, processor(), cudnn)
    plan = config.with_dtype(dtype), "flax", target(device, ops, dtype, mesh), read_weights
    if config.output.dry_run:
        processes.on_first(lambda: dry_run(*plan))
        return None
    run = start_run(*plan, processes)
    model = create_model(run.start.config, ops, dtype, mesh)
    optimizer = create_optimizer(options)
    state = create_state(run.start, run.config, optimizer, mesh)
    static_args = {"model": model, "optimizer": optimizer, "dtype": dtype}
    step_fn = partial(compile_train_step(ops, mesh), grad_clip=options.grad_clip, **static_args)
    with run:
        for step in range(run.first_step, options.steps):
            x, y = (join_rows(rows, mesh) for rows in run.next_batches())
            rate = learning_rate(step, options)
            state, metrics = step_fn(state, x, y, rate)
            run.log.step(step, rate, metrics)
            run.remove_older()
            if after_step(run, state, step + 1, dtype, model, mesh):
                break
    return step_folder(run.folder, step + 1)


def main() -> None:
    """Run the command line."""
    config = parse_train_config("gpt_flax.train")
    if config.parallel.gpus:
        dry_run(*planned(config), read_weights)
        return
    if config.runtime.fast_ops:
        tune_malloc()
    enable_compilation_cache()
    train(config)


if __name__ == "__main__":
    cli.run(main, MEMORY_OPTIONS)
