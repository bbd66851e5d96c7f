"""gpt_torch, called as its own commands call it."""

from collections.abc import Callable
from typing import SupportsFloat

import numpy as np

from benchmarks.spec import SEED, Spec, runtime_options
from benchmarks.workers import torch_tools as tools
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import SamplingOptions, StoppingOptions, TrainConfig
from gpt_common.hardware import processor, tune_malloc
from gpt_common.initialization import initialize_weights
from gpt_torch.fast import choose_fast_ops
from gpt_torch.generate import generate, load_model
from gpt_torch.inference import prepare_for_inference
from gpt_torch.precision import master_dtype
from gpt_torch.train import async_to_host, compile_train_step, create_state, to_device, train_step


def training(spec: Spec) -> Callable[[], SupportsFloat]:
    """Return a function that starts a training step on the next batch and returns its loss."""
    config = TrainConfig(runtime=runtime_options(spec))
    if spec.fast_ops:
        tune_malloc()
    options, loader = config.optimizer, spec.loader()
    device = tools.select_device(spec.device, spec.dtype)
    fast, compiled = spec.fast_ops, spec.compile
    ops = choose_fast_ops(device.type, spec.dtype, processor(), compiled) if fast else None
    start = Checkpoint(spec.model, initialize_weights(spec.model, SEED))
    state = create_state(start, config, device, ops)
    step_fn = compile_train_step(state.model) if compiled else train_step

    def step() -> SupportsFloat:
        x, y = (to_device(a, device) for a in loader.next_batches(1))
        metrics = step_fn(state, x, y, options.learning_rate, options.grad_clip, spec.dtype)
        return async_to_host(metrics)["loss"]

    return step


def generation(spec: Spec) -> Callable[[list[int], int, int], np.ndarray]:
    """Return a function that continues a batch of one prompt and returns the tokens."""
    if spec.fast_ops:
        tune_malloc()
    device = tools.select_device(spec.device, spec.dtype)
    start = Checkpoint(spec.model, initialize_weights(spec.model, SEED))
    model = load_model(start, master_dtype(spec.dtype), device)
    if spec.fast_ops:
        model = prepare_for_inference(model, spec.dtype, spec.compile)

    def continue_prompt(prompt: list[int], batch_size: int, new_tokens: int) -> np.ndarray:
        stopping = StoppingOptions(max_new_tokens=new_tokens, ignore_end=True)
        rows = generate(model, [prompt], SamplingOptions(), stopping, batch_size, spec.dtype)
        return np.array([row.prompt + row.tokens for row in rows])

    return continue_prompt
