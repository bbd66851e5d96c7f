"""gpt_flax, called as its own commands call it."""

from collections.abc import Callable

import numpy as np
from jax import Array

from benchmarks.spec import SEED, Spec, runtime_options
from benchmarks.workers import jax_tools as tools
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import SamplingOptions, StoppingOptions, TrainConfig
from gpt_common.hardware import keep_memory, processor
from gpt_common.initialization import initialize_weights
from gpt_flax.device import DTYPES
from gpt_flax.frozen import freeze
from gpt_flax.generate import generate, load_model
from gpt_flax.model import GPT
from gpt_flax.ops import PLAIN, choose_ops
from gpt_flax.optimizer import create_optimizer
from gpt_flax.train import create_state, jit_train_step


def training(spec: Spec) -> Callable[[], Array]:
    """Return a function that starts a training step on the next batch and returns its loss."""
    config = TrainConfig(runtime=runtime_options(spec))
    if spec.fast_ops:
        keep_memory()
    options, loader = config.optimizer, spec.loader()
    device = tools.select_device(spec.device, spec.dtype)
    ops = choose_ops(device.platform, spec.dtype, processor()) if spec.fast_ops else PLAIN
    model, optimizer = GPT(spec.model, DTYPES[spec.dtype], ops), create_optimizer(options)
    start = Checkpoint(spec.model, initialize_weights(spec.model, SEED))
    fixed = {"model": model, "optimizer": optimizer, "grad_clip": options.grad_clip}
    update = jit_train_step(ops)
    state = create_state(start, config, optimizer)

    def step() -> Array:
        nonlocal state
        x, y = loader.next_batches(1)
        state, metrics = update(state, x, y, options.learning_rate, **fixed)
        return metrics["loss"]

    return step


def generation(spec: Spec) -> Callable[[list[int], int, int], np.ndarray]:
    """Return a function that continues a batch of one prompt and returns the tokens."""
    device = tools.select_device(spec.device, spec.dtype)
    start = Checkpoint(spec.model, initialize_weights(spec.model, SEED))
    params, model = load_model(start, spec.dtype)
    if spec.fast_ops:
        ops = choose_ops(device.platform, spec.dtype, processor())
        params, model = freeze(params, model, ops)

    def continue_prompt(prompt: list[int], batch_size: int, new_tokens: int) -> np.ndarray:
        stopping = StoppingOptions(max_new_tokens=new_tokens, ignore_end=True)
        rows = generate(params, model, [prompt], SamplingOptions(), stopping, batch_size)
        return np.array([row.prompt + row.tokens for row in rows])

    return continue_prompt
