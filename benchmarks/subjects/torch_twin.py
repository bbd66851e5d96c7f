"""gpt_torch, called as its own commands call it."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from benchmarks.spec import SEED, Spec, runtime_options
from benchmarks.subjects import torch_tools as tools
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import SamplingOptions, TrainConfig
from gpt_common.initialization import initialize_weights
from gpt_torch.device import master_dtype
from gpt_torch.generate import generate, load_model
from gpt_torch.train import create_state, to_device, train_step


def training(spec: Spec) -> Callable[[], Tensor]:
    """Return a function that starts a training step on the next batch and returns its loss."""
    config = TrainConfig(runtime=runtime_options(spec))
    options, loader = config.optimizer, spec.loader()
    device = tools.select_device(spec.device, spec.dtype)
    start = Checkpoint(spec.model, initialize_weights(spec.model, SEED))
    state = create_state(start, config, device)

    def step() -> Tensor:
        x, y = (to_device(a, device) for a in loader.next_batches(1))
        metrics = train_step(state, x, y, options.learning_rate, options.grad_clip, spec.dtype)
        return metrics["loss"]

    return step


def generation(spec: Spec) -> Callable[[list[int], int, int], np.ndarray]:
    """Return a function that continues rows of a prompt and returns their tokens."""
    device = tools.select_device(spec.device, spec.dtype)
    start = Checkpoint(spec.model, initialize_weights(spec.model, SEED))
    model = load_model(start, master_dtype(spec.dtype), device)

    def continue_prompt(prompt: list[int], batch_size: int, new_tokens: int) -> np.ndarray:
        length = len(prompt) + new_tokens
        options = SamplingOptions(num_samples=batch_size, max_length=length)
        return generate(model, prompt, options, spec.dtype, device)

    return continue_prompt
