"""Continue a prompt in Flax: `python -m gpt_flax.generate --help`."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt_common import cli
from gpt_common.checkpoint import Checkpoint
from gpt_common.completion import (
    CHUNK,
    Completion,
    SampledTokens,
    add_chunk,
    is_context_full,
    last_tokens,
    next_chunk_length,
    next_uniforms,
    pad_inputs,
    seen_tokens,
    start_completions,
)
from gpt_common.config import (
    Device,
    Dtype,
    GenerateConfig,
    PromptOptions,
    SamplingOptions,
    StoppingOptions,
    round_up,
)
from gpt_common.exact import ExactSampler, Float64GPT
from gpt_common.formats.registry import read_weights
from gpt_common.hardware import processor
from gpt_common.repl import prompt_tokens, run_prompts, texts
from gpt_common.weights import num_parameters
from gpt_flax.cache import Cache, cache_dtype, empty_cache, forward_cached
from gpt_flax.device import (
    enable_compilation_cache,
    has_cudnn_attention,
    resolve_dtype,
    select_device,
)
from gpt_flax.fast import (
    FastOps,
    choose_fast_ops,
    create_model,
    is_small_batch,
    small_batch_options,
)
from gpt_flax.inference import InferenceGPT, prepare_for_inference
from gpt_flax.model import GPT
from gpt_flax.precision import autocast, master_dtype, product_dtype
from gpt_flax.sampling import sample, sample_arrays
from gpt_flax.weights import Params, from_hf, to_hf


def load_model(
    checkpoint: Checkpoint, dtype: Dtype, ops: FastOps | None = None
) -> tuple[Params, GPT]:
    """Return the weights, on the device, and the model, a `FastGPT` if `ops` are given."""
    params = from_hf(checkpoint.weights, checkpoint.config, master_dtype(dtype))
    return params, create_model(checkpoint.config, ops, dtype)


def load(
    source: str | PathLike[str], dtype: Dtype = "float32", device: Device = "auto"
) -> tuple[Params, GPT]:
    """Return the weights and the model of a checkpoint, to apply, train, or pass to `generate`.

    `source` is a run, a checkpoint in any format that `python -m convert` reads, or the name of a
    model on the Hugging Face Hub. The weights are float32, or float64 for that `dtype`; as a
    command with this `dtype` and `device` does, it sets jax's default device, the precision of
    float32 matrix products, and for float64 `jax_enable_x64`: call it before any other use of jax.
    Warns of a damaged checkpoint that it skips. Raises `InputError` if the source is missing or
    damaged, or if the device is not available or cannot compute in `dtype`.

    params, model = load("gpt2")
    logits, loss = model.apply({"params": params}, x, y)  # tokens and targets (B, T); logits
    # (B, T, V), loss in nats a token
    """
    select_device(device, dtype)
    checkpoint = read_weights(str(source))
    for note in checkpoint.notes:
        warnings.warn(note, stacklevel=2)
    return load_model(checkpoint, dtype)


class DecodeState(NamedTuple):
    """The tokens that the model reads next, and the cache of those that it has read.

    `tokens` are at `positions`, both `(R, T)`: in `prefill` T is the prompts' length, then 1.
    """

    tokens: Array
    positions: Array
    seen: Array | None  # (R, V), for the repetition penalty
    cache: Cache


def generate(
    params: Params,
    model: GPT,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingOptions | None = None,
    stopping: StoppingOptions | None = None,
    num_samples: int = 1,
    dtype: Dtype = "float32",
    exact: bool = False,
) -> list[Completion]:
    """Return `num_samples` continuations of each prompt, a list of tokens of any length.

    A continuation depends on its prompt, its number and the options, not on the rest of the batch;
    with `exact`, not on rounding either: borderline tokens are sampled again in float64. Raises
    `InputError` for what the model cannot continue, as past its `block_size`.
    """
    sampling, stopping = sampling or SamplingOptions(), stopping or StoppingOptions()
    completions = start_completions(prompts, num_samples, sampling, stopping, model.config)
    weights = partial(to_hf, params, model.config)
    float64 = Float64GPT(model.config, weights, dtype) if exact else None
    for _ in generate_stream(params, model, completions, sampling, dtype, float64):
        pass
    return completions


def generate_stream(
    params: Params,
    model: GPT,
    completions: list[Completion],
    sampling: SamplingOptions,
    dtype: Dtype,
    exact: Float64GPT | None = None,
) -> Iterator[None]:
    """Continue until all have finished; yield after every few tokens, for the caller to show."""
    block_size, longest = model.config.block_size, max(c.max_length for c in completions)
    seed, options = sampling.seed, replace(sampling, seed=0)  # else each seed would compile
    exact_sampler = exact and ExactSampler(exact, sampling, partial(sample_arrays, options))
    add = exact_sampler.add_chunk if exact_sampler else add_chunk
    state = None
    while steps := next_chunk_length(completions, block_size):
        uniforms = next_uniforms(seed, completions, steps)
        if state is None or is_context_full(completions, block_size):
            length = min(round_up(longest, 64), block_size)
            state, chunk = prefill(params, model, completions, length, uniforms, options, dtype)
        else:
            state, chunk = decode(params, model, state, uniforms, options, dtype)
        if add(completions, chunk):
            state = rewind(state, completions)
        yield


def prefill(
    params: Params,
    model: GPT,
    completions: list[Completion],
    length: int,
    uniforms: np.ndarray,
    sampling: SamplingOptions,
    dtype: Dtype,
) -> tuple[DecodeState, SampledTokens]:
    """Read the tokens so far, and sample one for each row; the cache is for `length` tokens.

    Prompts are padded to 8, 16, 32, ... tokens, so that not every length compiles.
    """
    tokens, lengths = pad_inputs(completions, model.config.block_size)
    T = tokens.shape[1]
    padding = min(max(8, 1 << (T - 1).bit_length()), length) - T
    tokens = np.pad(tokens, ((0, 0), (0, padding)))
    seen = None
    if sampling.repetition_penalty != 1:
        seen = seen_tokens(completions, model.config.vocab_size)
    static_args = {"model": model, "length": length, "sampling": sampling, "dtype": dtype}
    with jax.enable_x64(True):
        state, sampled = prefill_step(params, tokens, lengths, seen, uniforms[:, 0], **static_args)
    return state, SampledTokens(*(np.asarray(column)[None] for column in sampled))


@partial(jax.jit, static_argnames=("model", "length", "sampling", "dtype"))
def prefill_step(
    params: Params,
    tokens: Array,
    lengths: Array,
    seen: Array | None,
    uniform: Array,
    *,
    model: GPT,
    length: int,
    sampling: SamplingOptions,
    dtype: Dtype,
) -> tuple[DecodeState, tuple[Array, Array, Array]]:
    """Read padded prompts, and sample a token for each row: the compiled `prefill`."""
    R, T = tokens.shape
    compute = product_dtype(dtype, params["wte"]["embedding"].dtype)
    cache = empty_cache(model.config, R, length, cache_dtype(jax.default_backend(), compute))
    positions = jnp.broadcast_to(jnp.arange(T), (R, T))
    state = DecodeState(tokens, positions, seen, cache)
    logits, cache = next_logits(params, model, state, lengths - 1, dtype)
    state = state._replace(positions=lengths[:, None] - 1, cache=cache)
    return sample_next(state, logits, uniform, sampling)


def decode(
    params: Params,
    model: GPT,
    state: DecodeState,
    uniforms: np.ndarray,
    sampling: SamplingOptions,
    dtype: Dtype,
) -> tuple[DecodeState, SampledTokens]:
    """Sample a token for each of the `uniforms` `(R, steps)`; the old state is donated."""
    steps = uniforms.shape[1]
    uniforms = np.pad(uniforms, ((0, 0), (0, CHUNK - steps)))
    decode_fn = choose_decode(jax.default_backend(), len(uniforms), model, dtype)
    static_args = {"model": model, "sampling": sampling, "dtype": dtype}
    with jax.enable_x64(True):
        state, chunk = decode_fn(params, state, steps, uniforms, **static_args)
    return state, SampledTokens(*(np.asarray(column)[:steps] for column in chunk))


def decode_steps(
    params: Params,
    state: DecodeState,
    steps: int,
    uniforms: Array,
    *,
    model: GPT,
    sampling: SamplingOptions,
    dtype: Dtype,
) -> tuple[DecodeState, tuple[Array, Array, Array]]:
    """Sample `steps` tokens, at most `CHUNK`, in a loop on the device: the compiled `decode`."""
    R = len(uniforms)
    last = jnp.zeros(R, jnp.int64)

    def step(n: Array, carry: tuple) -> tuple:
        state, chunk = carry
        logits, cache = next_logits(params, model, state, last, dtype)
        state, sampled = sample_next(state._replace(cache=cache), logits, uniforms[:, n], sampling)
        return state, tuple(c.at[n].set(d) for c, d in zip(chunk, sampled, strict=True))

    dtypes = (jnp.int64, jnp.float64, jnp.float64)
    chunk = tuple(jnp.zeros((CHUNK, R), dtype) for dtype in dtypes)
    return jax.lax.fori_loop(0, steps, step, (state, chunk))


STATIC = ("model", "sampling", "dtype")
jit_steps = partial(jax.jit, decode_steps, donate_argnames="state")
jit_decode = jit_steps(static_argnames=STATIC)
jit_decode_small_batch = jit_steps(
    static_argnames=STATIC, compiler_options=small_batch_options(jax.__version_info__)
)
# On a GPU XLA waits for the device before each step of a loop whose length it does not know.
jit_decode_on_gpu = jit_steps(static_argnames=(*STATIC, "steps"))


def choose_decode(device_type: str, rows: int, model: GPT, dtype: Dtype) -> Callable[..., Any]:
    """Return `decode_steps`, compiled as suits a device and the number of `rows`."""
    if device_type != "cpu":
        return jit_decode_on_gpu
    small = isinstance(model, InferenceGPT) and is_small_batch(device_type, rows, dtype)
    return jit_decode_small_batch if small else jit_decode


def next_logits(
    params: Params, model: GPT, state: DecodeState, last: Array, dtype: Dtype
) -> tuple[Array, Cache]:
    """Return the logits `(R, V)` that follow the token at index `last` `(R,)` of each row."""
    inputs = state.tokens, state.positions, last, state.cache
    with autocast(dtype):
        return model.apply({"params": params}, *inputs, method=forward_cached)  # type: ignore[return-value]


def sample_next(
    state: DecodeState, logits: Array, uniforms: Array, sampling: SamplingOptions
) -> tuple[DecodeState, tuple[Array, Array, Array]]:
    """Sample a token for each row, and make it the one that the model reads next."""
    length = state.cache[0].keys.shape[2]
    sampled = sample(logits, uniforms, state.seen, sampling)
    seen = state.seen
    if seen is not None:
        seen = seen.at[jnp.arange(len(seen)), sampled[0]].set(True)
    positions = jnp.minimum(state.positions + 1, length - 1)  # where finished rows stay
    return DecodeState(sampled[0][:, None], positions, seen, state.cache), sampled


def rewind(state: DecodeState, completions: Sequence[Completion]) -> DecodeState:
    """Return the state that goes on from each row's last token, after some have been replaced."""
    length = state.cache[0].keys.shape[2]
    tokens, positions = last_tokens(completions, length)
    with jax.enable_x64(True):
        seen = state.seen
        if seen is not None:
            seen = jnp.array(seen_tokens(completions, seen.shape[1]))
        return DecodeState(jnp.array(tokens), jnp.array(positions), seen, state.cache)


def generate_texts(
    params: Params,
    model: GPT,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    stopping: StoppingOptions,
    dtype: Dtype,
) -> list[str]:
    """Return the continuations of a prompt as texts, which begin with it."""
    prompts = [prompt_tokens(prompt)]
    return texts(generate(params, model, prompts, sampling, stopping, prompt.count, dtype))


def main() -> None:
    """Run the command line."""
    config = cli.parse(GenerateConfig, "gpt_flax.generate")
    enable_compilation_cache()
    dtype = resolve_dtype(config.dtype, config.device)
    config = config.with_dtype(dtype)
    device = select_device(config.device, dtype)
    start = read_weights(config.init)
    cli.print_notes(start.notes)
    exact = Float64GPT(start.config, lambda: start.weights, dtype) if config.exact else None
    params, model = load_model(start, dtype)
    cudnn = has_cudnn_attention(device, dtype)
    ops = choose_fast_ops(device.platform, dtype, processor(), cudnn)
    params, model = prepare_for_inference(params, model, dtype, ops)
    options = config.sampling, dtype, exact
    summary = cli.summary("flax", device.platform, dtype, num_parameters(model.config))
    run_prompts(
        config, model.config, summary, lambda rows: generate_stream(params, model, rows, *options)
    )


if __name__ == "__main__":
    cli.run(main, "--num_samples, --max_length or the model")
