"""Continue a prompt in Flax: `python -m gpt_flax.generate --help`."""

from functools import partial

import jax
import numpy as np
from jax import Array

from gpt_common import cli, tokenizer
from gpt_common.checkpoint import Checkpoint, read_checkpoint
from gpt_common.config import Dtype, GenerateConfig, SamplingOptions
from gpt_common.sampling import prompt_tokens, sample, uniforms
from gpt_flax.device import DTYPES, master_dtype, select_device
from gpt_flax.model import GPT
from gpt_flax.weights import Params, from_neutral


def load_model(checkpoint: Checkpoint, dtype: Dtype) -> tuple[Params, GPT]:
    """Return the checkpoint's weights on the device, and the model that they belong to."""
    params = from_neutral(checkpoint.weights, checkpoint.config, master_dtype(dtype))
    return params, GPT(checkpoint.config, DTYPES[dtype])


def generate(params: Params, model: GPT, prompt: list[int], options: SamplingOptions) -> np.ndarray:
    """Return `num_samples` continuations of the prompt, `(num_samples, max_length)` tokens.

    Every token is computed from all those before it, without a cache.
    """
    draws = uniforms(options.seed, options.num_samples, options.max_length)
    tokens = np.zeros((options.num_samples, options.max_length), np.int32)
    tokens[:, : len(prompt)] = prompt
    for position in range(len(prompt), options.max_length):
        logits = np.asarray(next_logits(params, tokens, position, model=model))
        tokens[:, position] = sample(logits, draws[:, position], options.top_k, options.temperature)
    return tokens


@partial(jax.jit, static_argnames="model")
def next_logits(params: Params, tokens: Array, position: int, *, model: GPT) -> Array:
    """Return the logits `(S, V)` of the token at `position` of `tokens` `(S, T)`.

    The rows always have their full length, so that one compiled step serves all positions: what
    stands from `position` on cannot change the result.
    """
    logits, _ = model.apply({"params": params}, tokens)
    return logits[:, position - 1]


def generate_texts(params: Params, model: GPT, options: SamplingOptions) -> list[str]:
    """Return the prompt and its continuations as texts."""
    prompt = prompt_tokens(options, model.config)
    rows = generate(params, model, prompt, options)
    return [tokenizer.decode(row) for row in rows.tolist()]


def main() -> None:
    """Run the command line."""
    config = cli.parse(GenerateConfig, "generate")
    select_device(config.device, config.dtype)
    params, model = load_model(read_checkpoint(config.init, with_training=False), config.dtype)
    for text in generate_texts(params, model, config.sampling):
        print(">", text)


if __name__ == "__main__":
    cli.run(main)
