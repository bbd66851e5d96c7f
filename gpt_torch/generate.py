"""Continue a prompt in PyTorch: `python -m gpt_torch.generate --help`."""

from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from gpt_common import cli, tokenizer
from gpt_common.checkpoint import Checkpoint, read_checkpoint
from gpt_common.config import Dtype, GenerateConfig, SamplingOptions
from gpt_common.sampling import prompt_tokens, sample, uniforms
from gpt_torch.device import master_dtype, select_device
from gpt_torch.model import GPT
from gpt_torch.weights import from_neutral


def load_model(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> GPT:
    """Return the checkpoint's model on the device."""
    with torch.device("meta"):  # no memory and no random numbers: the weights follow
        model = GPT(checkpoint.config)
    model.load_state_dict(from_neutral(checkpoint.weights, checkpoint.config, dtype), assign=True)
    return model.to(device)


def autocast(device: torch.device, dtype: Dtype) -> AbstractContextManager:
    """Return the context in which matrix products compute in bfloat16, where `dtype` is that."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def generate(
    model: GPT, prompt: list[int], options: SamplingOptions, dtype: Dtype, device: torch.device
) -> np.ndarray:
    """Return `num_samples` continuations of the prompt, `(num_samples, max_length)` tokens.

    Every token is computed from all those before it, without a cache.
    """
    draws = uniforms(options.seed, options.num_samples, options.max_length)
    tokens = np.zeros((options.num_samples, options.max_length), np.int64)
    tokens[:, : len(prompt)] = prompt
    for position in range(len(prompt), options.max_length):
        seen = torch.from_numpy(tokens[:, :position]).to(device)
        logits = next_logits(model, seen, dtype).cpu().numpy()
        tokens[:, position] = sample(logits, draws[:, position], options.top_k, options.temperature)
    return tokens


@torch.inference_mode()
def next_logits(model: GPT, tokens: Tensor, dtype: Dtype) -> Tensor:
    """Return the logits `(S, V)` of the token that follows `tokens` `(S, T)`."""
    with autocast(tokens.device, dtype):
        logits, _ = model(tokens)
    return logits[:, -1]


def generate_texts(
    model: GPT, options: SamplingOptions, dtype: Dtype, device: torch.device
) -> list[str]:
    """Return the prompt and its continuations as texts."""
    prompt = prompt_tokens(options, model.config)
    rows = generate(model, prompt, options, dtype, device)
    return [tokenizer.decode(row) for row in rows.tolist()]


def main() -> None:
    """Run the command line."""
    config = cli.parse(GenerateConfig, "generate")
    device = select_device(config.device, config.dtype)
    checkpoint = read_checkpoint(config.init, with_training=False)
    model = load_model(checkpoint, master_dtype(config.dtype), device)
    for text in generate_texts(model, config.sampling, config.dtype, device):
        print(">", text)


if __name__ == "__main__":
    cli.run(main)
