"""Evaluate a model in Flax: `python -m gpt_flax.evaluate --help`."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt_common import cli
from gpt_common.config import Dtype, EvaluateConfig
from gpt_common.evaluation import evaluate, print_results, read_evaluations
from gpt_common.formats.registry import read_weights
from gpt_common.hardware import processor, tune_malloc
from gpt_common.scoring import Logprobs
from gpt_flax.device import (
    enable_compilation_cache,
    has_cudnn_attention,
    resolve_dtype,
    select_device,
)
from gpt_flax.fast import choose_fast_ops
from gpt_flax.generate import load_model
from gpt_flax.model import GPT
from gpt_flax.precision import autocast
from gpt_flax.weights import Params


@partial(jax.jit, static_argnames=("model", "dtype"))
def token_logprobs(params: Params, x: Array, y: Array, *, model: GPT, dtype: Dtype) -> Array:
    """Return log p of the targets `y` that follow the tokens `x`, all `(B, T)`, in nats.

    The logits of one row at a time are in memory.
    """

    def row_logprobs(row: tuple[Array, Array]) -> Array:
        hidden, targets = row
        logits: Any = model.apply({"params": params}, hidden, method="head")  # (T, V)
        target_logits = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return target_logits - jax.nn.logsumexp(logits, axis=-1)

    with autocast(dtype):
        hidden: Any = model.apply({"params": params}, x, method="hidden")
        return jax.lax.map(row_logprobs, (hidden, y))


def numpy_logprobs(params: Params, model: GPT, dtype: Dtype) -> Logprobs:
    """Return `token_logprobs` as a function of numpy arrays."""

    def logprobs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(token_logprobs(params, x, y, model=model, dtype=dtype))

    return logprobs


def main() -> None:
    """Run the command line."""
    config = cli.parse(EvaluateConfig, "gpt_flax.evaluate")
    tune_malloc()
    enable_compilation_cache()
    dtype = resolve_dtype(config.dtype, config.device)
    config = dataclasses.replace(config, dtype=dtype)
    device = select_device(config.device, dtype)
    start = read_weights(config.init)
    cli.print_notes(start.notes)
    evaluations = read_evaluations(config, start.config)
    cudnn = has_cudnn_attention(device, dtype)
    ops = choose_fast_ops(device.platform, dtype, processor(), cudnn)
    params, model = load_model(start, dtype, ops)
    results = evaluate(evaluations, config, model.config, numpy_logprobs(params, model, dtype))
    print_results(results, config.json)


if __name__ == "__main__":
    cli.run(main, "--batch_size or the model")
