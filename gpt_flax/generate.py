"""Continue a prompt in Flax: `python -m gpt_flax.generate --help`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt_common import cli, tokenizer
from gpt_common.checkpoint import Checkpoint, read_checkpoint
from gpt_common.config import Dtype, GenerateConfig, SamplingOptions
from gpt_common.sampling import prompt_tokens, uniforms
from gpt_flax.device import DTYPES, master_dtype, select_device
from gpt_flax.model import GPT
from gpt_flax.weights import Params, from_neutral


def load_model(checkpoint: Checkpoint, dtype: Dtype) -> tuple[Params, GPT]:
    """Return the checkpoint's weights on the device, and the model that they belong to."""
    params = from_neutral(checkpoint.weights, checkpoint.config, master_dtype(dtype))
    return params, GPT(checkpoint.config, DTYPES[dtype])


def generate(params: Params, model: GPT, prompt: list[int], options: SamplingOptions) -> np.ndarray:
    """Return `num_samples` continuations of the prompt, `(num_samples, max_length)` tokens.

    Every token is computed from all those before it, without a cache. The rows have their full
    length from the start, so that one compiled step serves all positions: what follows a position
    cannot change it.
    """
    draws = uniforms(options.seed, options.num_samples, options.max_length)
    tokens = np.zeros((options.num_samples, options.max_length), np.int32)  # (S, max_length)
    tokens[:, : len(prompt)] = prompt
    step = partial(next_token, model=model, top_k=options.top_k, temperature=options.temperature)
    for position in range(len(prompt), options.max_length):
        tokens[:, position] = step(params, tokens, position, draws[:, position])
    return tokens


@partial(jax.jit, static_argnames=("model", "top_k", "temperature"))
def next_token(
    params: Params,
    tokens: Array,
    position: int,
    draws: Array,
    *,
    model: GPT,
    top_k: int,
    temperature: float,
) -> Array:
    """Return the token at `position` for each row, from those before it."""
    logits, _ = model.apply({"params": params}, tokens)
    return sample(logits[:, position - 1], draws, top_k, temperature)


def sample(logits: Array, draws: Array, top_k: int, temperature: float) -> Array:
    """Return a token for each row of `logits` `(S, V)`, by inverse cumulative probability.

    Tokens stand by falling probability, ties by token id; uniform `draws` `(S,)` choose among the
    first `top_k`.
    """
    if temperature == 0:
        return logits.argmax(-1)
    tokens = jnp.argsort(logits / temperature, axis=-1, descending=True, stable=True)
    kept = jnp.take_along_axis(logits / temperature, tokens, axis=-1)[:, : top_k or None]
    cumulative = jax.nn.softmax(kept, axis=-1).cumsum(-1)  # (S, k)
    below = (cumulative <= draws[:, None] * cumulative[:, -1:]).sum(-1, keepdims=True)
    below = jnp.minimum(below, kept.shape[1] - 1)
    return jnp.take_along_axis(tokens, below, axis=-1)[:, 0]


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
