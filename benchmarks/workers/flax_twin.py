"""gpt_flax, called as its own commands call it."""

from collections.abc import Callable
from functools import partial

import numpy as np
from jax import Array

from benchmarks.spec import SEED, Spec, runtime_options
from benchmarks.workers import jax_tools as tools
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import SamplingOptions, StoppingOptions, TrainConfig
from gpt_common.hardware import processor, tune_malloc
from gpt_common.initialization import initialize_weights
from gpt_flax.fast import choose_fast_ops, create_model
from gpt_flax.generate import generate, load_model
from gpt_flax.inference import prepare_for_inference
from gpt_flax.optimizer import create_optimizer
from gpt_flax.train import compile_train_step, create_state


def training(spec: Spec) -> Callable[[], Array]:
    """Return a function that starts a training step on the next batch and returns its loss."""
    config = TrainConfig(runtime=runtime_options(spec))
    if spec.fast_ops:
        tune_malloc()
    options, loader = config.optimizer, spec.loader()
    device = tools.select_device(spec.device, spec.dtype)
    ops = choose_fast_ops(device.platform, spec.dtype, processor()) if spec.fast_ops else None
    model, optimizer = create_model(spec.model, ops, spec.dtype), create_optimizer(options)
    start = Checkpoint(spec.model, initialize_weights(spec.model, SEED))
    static_args = {"model": model, "optimizer": optimizer, "dtype": spec.dtype}
    step_fn = partial(compile_train_step(ops), grad_clip=options.grad_clip, **static_args)
    state = create_state(start, config, optimizer)

    def step() -> Array:
        nonlocal state
        x, y = loader.next_batches(1)
        state, metrics = step_fn(state, x, y, options.learning_rate)
        return metrics["loss"]

    return step


def generation(spec: Spec) -> Callable[[list[int], int, int], np.ndarray]:
    """Return a function that continues a batch of one prompt and returns the tokens."""
    device = tools.select_device(spec.device, spec.dtype)
    start = Checkpoint(spec.model, initialize_weights(spec.model, SEED))
    params, model = load_model(start, spec.dtype)
    if spec.fast_ops:
        ops = choose_fast_ops(device.platform, spec.dtype, processor())
        params, model = prepare_for_inference(params, model, spec.dtype, ops)

    def continue_prompt(prompt: list[int], batch_size: int, new_tokens: int) -> np.ndarray:
        stopping = StoppingOptions(max_new_tokens=new_tokens, ignore_end=True)
        how = SamplingOptions(), stopping, batch_size, spec.dtype
        rows = generate(params, model, [prompt], *how)
        return np.array([row.prompt + row.tokens for row in rows])

    return continue_prompt
