"""Evaluate a model in PyTorch: `python -m gpt_torch.evaluate --help`."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from gpt_common import cli
from gpt_common.config import Dtype, EvaluateConfig
from gpt_common.evaluation import evaluate, print_results, read_evaluations
from gpt_common.formats.registry import read_weights
from gpt_common.hardware import processor, tune_malloc
from gpt_common.scoring import Logprobs
from gpt_torch.device import resolve_dtype, select_device, upload
from gpt_torch.fast import choose_fast_ops
from gpt_torch.generate import load_model
from gpt_torch.model import GPT
from gpt_torch.precision import autocast, master_dtype


@torch.no_grad()
def token_logprobs(model: GPT, x: Tensor, y: Tensor, dtype: Dtype) -> Tensor:
    """Return log p of the targets `y` that follow the tokens `x`, all `(B, T)`, in nats.

    The logits of one row at a time are in memory.
    """
    rows = []
    with autocast(x.device, dtype):
        for hidden, targets in zip(model.hidden(x), y, strict=True):
            logits = model.head(hidden)  # (T, V)
            target_logits = logits.gather(-1, targets[:, None])[:, 0]
            rows.append(target_logits - logits.logsumexp(-1))
    return torch.stack(rows)


def numpy_logprobs(model: GPT, dtype: Dtype) -> Logprobs:
    """Return `token_logprobs` as a function of numpy arrays."""
    device = model.wte.weight.device

    def logprobs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        tokens, targets = (upload(array, device).long() for array in (x, y))
        return token_logprobs(model, tokens, targets, dtype).cpu().numpy()

    return logprobs


def main() -> None:
    """Run the command line."""
    config = cli.parse(EvaluateConfig, "gpt_torch.evaluate")
    tune_malloc()
    dtype = resolve_dtype(config.dtype, config.device)
    config = dataclasses.replace(config, dtype=dtype)
    device = select_device(config.device, dtype)
    start = read_weights(config.init)
    cli.print_notes(start.notes)
    evaluations = read_evaluations(config, start.config)
    ops = choose_fast_ops(device.type, dtype, processor())
    model = load_model(start, master_dtype(dtype), device, ops)
    results = evaluate(evaluations, config, model.config, numpy_logprobs(model, dtype))
    print_results(results, config.json)


if __name__ == "__main__":
    cli.run(main, "--batch_size or the model")
