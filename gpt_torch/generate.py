"""Continue a prompt in PyTorch: `python -m gpt_torch.generate --help`."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike

import numpy as np
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from gpt_common import cli
from gpt_common.checkpoint import Checkpoint
from gpt_common.completion import (
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
from gpt_common.hardware import tune_malloc
from gpt_common.repl import prompt_tokens, run_prompts, texts
from gpt_common.weights import Weights, num_parameters
from gpt_torch.cache import Cache, LayerCache, cache_dtype, empty_cache, forward_cached
from gpt_torch.device import resolve_dtype, select_device, upload
from gpt_torch.fast import FastOps, create_model
from gpt_torch.inference import InferenceGPT, prepare_for_inference
from gpt_torch.model import GPT
from gpt_torch.parallel import divide, shard_model
from gpt_torch.precision import autocast, master_dtype, product_dtype
from gpt_torch.sampling import sample, sample_arrays
from gpt_torch.weights import NoInitialization, iter_hf, name_table, to_hf


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    ops: FastOps | None = None,
    mesh: DeviceMesh | None = None,
) -> GPT:
    """Return the checkpoint's model on the device, or divided among those of a mesh.

    It is a `FastGPT` if `ops` are given.
    """
    with torch.device("meta"), NoInitialization():  # the weights follow
        model = create_model(checkpoint.config, ops).to(dtype)
    shard_model(model, mesh)
    parameters = dict(model.named_parameters())
    tensors = iter_hf(checkpoint.weights, checkpoint.config, dtype)
    state = {name: divide(tensor, parameters[name]) for name, tensor in tensors}
    model.load_state_dict(state, assign=True)
    return model.to(device)


def load(source: str | PathLike[str], dtype: Dtype = "float32", device: Device = "auto") -> GPT:
    """Return the model of a checkpoint, ready to be called, trained, or passed to `generate`.

    `source` is a run, a checkpoint in any format that `python -m convert` reads, or the name of a
    model on the Hugging Face Hub. The weights are float32, or float64 for that `dtype`; as a
    command with this `dtype` and `device` does, it sets the precision of float32 matrix products.
    Warns of a damaged checkpoint that it skips. Raises `InputError` if the source is missing or
    damaged, or if the device is not available or cannot compute in `dtype`.

    model = load("gpt2")
    logits, loss = model(x, y)  # tokens and targets (B, T); logits (B, T, V), loss in nats a token
    """
    selected = select_device(device, dtype)
    checkpoint = read_weights(str(source))
    for note in checkpoint.notes:
        warnings.warn(note, stacklevel=2)
    return load_model(checkpoint, master_dtype(dtype), selected)


@dataclass
class DecodeState:
    """The tokens that the model reads next, and the cache of those that it has read.

    `tokens` are at `positions`, both `(R, T)`: in `prefill` T is the prompts' length, then 1.
    """

    tokens: Tensor
    positions: Tensor
    seen: Tensor | None  # (R, V), for the repetition penalty
    cache: Cache
    end: int  # the number of positions that the cache holds


def generate(
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
    weights = partial(master_weights, model)
    float64 = Float64GPT(model.config, weights, dtype) if exact else None
    for _ in generate_stream(model, completions, sampling, dtype, float64):
        pass
    return completions


def generate_stream(
    model: GPT,
    completions: list[Completion],
    sampling: SamplingOptions,
    dtype: Dtype,
    exact: Float64GPT | None = None,
) -> Iterator[None]:
    """Continue until all have finished; yield after every few tokens, for the caller to show."""
    block_size, longest = model.config.block_size, max(c.max_length for c in completions)
    exact_sampler = exact and ExactSampler(exact, sampling, partial(sample_arrays, sampling))
    add = exact_sampler.add_chunk if exact_sampler else add_chunk
    state = None
    while steps := next_chunk_length(completions, block_size):
        uniforms = next_uniforms(sampling.seed, completions, steps)
        if state is None or is_context_full(completions, block_size):
            length = cache_length(model, longest)
            state, chunk = prefill(model, completions, length, uniforms, sampling, dtype)
        else:
            state, chunk = decode(model, state, uniforms, sampling, dtype)
        if add(completions, chunk):
            state = rewind(state, completions)
        yield


@torch.inference_mode()
def prefill(
    model: GPT,
    completions: list[Completion],
    length: int,
    uniforms: np.ndarray,
    sampling: SamplingOptions,
    dtype: Dtype,
) -> tuple[DecodeState, SampledTokens]:
    """Read the tokens so far, and sample one for each row; the cache is for `length` tokens."""
    config, device = model.config, model.wte.weight.device
    inputs = pad_inputs(completions, config.block_size)
    tokens, lengths = (upload(array, device) for array in inputs)
    R, T = tokens.shape
    compute = product_dtype(dtype, model.wte.weight.dtype)
    seen = None
    if sampling.repetition_penalty != 1:
        seen = upload(seen_tokens(completions, config.vocab_size), sampling_device(device))
    cache = empty_cache(config, R, length, cache_dtype(device.type, compute), device)
    state = DecodeState(tokens, torch.arange(T, device=device).expand(R, T), seen, cache, T)
    logits = next_logits(model, state, lengths - 1, dtype)
    state.positions = lengths[:, None] - 1
    uniform = upload(uniforms[:, 0], sampling_device(device))
    return state, stack([sample_next(state, logits, uniform, sampling)])


@torch.inference_mode()
def decode(
    model: GPT, state: DecodeState, uniforms: np.ndarray, sampling: SamplingOptions, dtype: Dtype
) -> tuple[DecodeState, SampledTokens]:
    """Sample a token for each of the `uniforms` `(R, steps)`; update the state in place."""
    last = torch.zeros(len(uniforms), dtype=torch.int64, device=state.tokens.device)
    chunk = []
    for uniform in upload(uniforms, sampling_device(last.device)).unbind(1):
        logits = next_logits(model, state, last, dtype)
        chunk.append(sample_next(state, logits, uniform, sampling))
    return state, stack(chunk)


def next_logits(model: GPT, state: DecodeState, last: Tensor, dtype: Dtype) -> Tensor:
    """Return the logits `(R, V)` that follow the token at index `last` `(R,)` of each row."""
    one_token = state.tokens.shape[1] == 1
    forward = model.step if isinstance(model, InferenceGPT) and one_token else forward_cached
    with autocast(state.tokens.device, dtype):
        return forward(model, state.tokens, state.positions, last, active_cache(model, state))


def sample_next(
    state: DecodeState, logits: Tensor, uniforms: Tensor, sampling: SamplingOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample a token for each row, and make it the one that the model reads next."""
    device, length = logits.device, state.cache[0].keys.shape[2]
    sampled = sample(logits.to(uniforms.device), uniforms, state.seen, sampling)
    if state.seen is not None:
        state.seen.scatter_(1, sampled[0][:, None], True)
    state.tokens = sampled[0][:, None].to(device)
    state.positions = (state.positions + 1).clamp(max=length - 1)  # where finished rows stay
    state.end = min(state.end + 1, length)
    return sampled


def sampling_device(device: torch.device) -> torch.device:
    """Return the device that samples: the model's, or the CPU for MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def has_static_cache(model: GPT) -> bool:
    """Whether each step reads the whole cache: on a GPU or if compiled, one shape is faster."""
    compiled = isinstance(model, InferenceGPT) and model.compiled
    return compiled or model.wte.weight.device.type != "cpu"


def cache_length(model: GPT, longest: int) -> int:
    """Return the length of a cache for `longest` tokens; a static one serves several lengths."""
    length = round_up(longest, 64) if has_static_cache(model) else longest
    return min(length, model.config.block_size)


def active_cache(model: GPT, state: DecodeState) -> Cache:
    """Return the part of the cache that holds tokens, or all of a static cache."""
    if has_static_cache(model):
        return state.cache
    return [LayerCache(*(cached[:, :, : state.end] for cached in layer)) for layer in state.cache]


def stack(chunk: list[tuple[Tensor, Tensor, Tensor]]) -> SampledTokens:
    """Return the sampled tokens of n steps, each `(n, R)`, on the host."""
    columns = [torch.stack(column).double() for column in zip(*chunk, strict=True)]
    tokens, logprobs, margins = torch.stack(columns).cpu().numpy()  # one copy, one wait
    return SampledTokens(tokens.astype(np.int64), logprobs, margins)


def rewind(state: DecodeState, completions: Sequence[Completion]) -> DecodeState:
    """Return the state that goes on from each row's last token, after some have been replaced."""
    device, length = state.tokens.device, state.cache[0].keys.shape[2]
    tokens, positions = last_tokens(completions, length)
    seen = state.seen
    if seen is not None:
        seen = upload(seen_tokens(completions, seen.shape[1]), seen.device)
    end = int(positions.max()) + 1
    uploaded = upload(tokens, device), upload(positions, device)
    return DecodeState(*uploaded, seen, state.cache, end)


def generate_texts(
    model: GPT,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    stopping: StoppingOptions,
    dtype: Dtype,
) -> list[str]:
    """Return the continuations of a prompt as texts, which begin with it."""
    prompts = [prompt_tokens(prompt)]
    return texts(generate(model, prompts, sampling, stopping, prompt.count, dtype))


def master_weights(model: GPT) -> Weights:
    """Return the weights of any `GPT`, also an `InferenceGPT`, under Hugging Face's names."""
    tensors = {}
    for name, _ in name_table(model.config).values():
        module, _, parameter = name.rpartition(".")
        tensor = getattr(model.get_submodule(module), parameter)
        tensors[name] = tensor.to_dense() if tensor.is_mkldnn else tensor  # packed by oneDNN
    return to_hf(tensors, model.config)


def main() -> None:
    """Run the command line."""
    config = cli.parse(GenerateConfig, "gpt_torch.generate")
    tune_malloc()  # long prompts are faster; in Flax they are not
    dtype = resolve_dtype(config.dtype, config.device)
    config = config.with_dtype(dtype)
    device = select_device(config.device, dtype)
    start = read_weights(config.init)
    cli.print_notes(start.notes)
    exact = Float64GPT(start.config, lambda: start.weights, dtype) if config.exact else None
    model = load_model(start, master_dtype(dtype), device)
    model = prepare_for_inference(model, dtype, config.compile)
    options = config.sampling, dtype, exact
    summary = cli.summary("torch", device.type, dtype, num_parameters(model.config))
    run_prompts(config, model.config, summary, lambda rows: generate_stream(model, rows, *options))


if __name__ == "__main__":
    cli.run(main, "--num_samples, --max_length or the model")
