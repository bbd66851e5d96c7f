"""Neutral names <-> torch parameters: one table, read in both directions."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gpt_common.config import GPTConfig
from gpt_common.weights import Array, Weights, in_model

StateDict = dict[str, Tensor]

# Neutral name -> (torch name, whether torch holds the transpose: nn.Linear is (out, in)).
TABLE = {
    "transformer.wte.weight": ("wte.weight", False),
    "transformer.wpe.weight": ("wpe.weight", False),
    "transformer.ln_f.weight": ("ln_f.weight", False),
    "transformer.ln_f.bias": ("ln_f.bias", False),
}
BLOCK_TABLE = {
    "ln_1.weight": ("ln_1.weight", False),
    "ln_1.bias": ("ln_1.bias", False),
    "attn.c_attn.weight": ("attn.c_attn.weight", True),
    "attn.c_attn.bias": ("attn.c_attn.bias", False),
    "attn.c_proj.weight": ("attn.c_proj.weight", True),
    "attn.c_proj.bias": ("attn.c_proj.bias", False),
    "ln_2.weight": ("ln_2.weight", False),
    "ln_2.bias": ("ln_2.bias", False),
    "mlp.c_fc.weight": ("mlp.c_fc.weight", True),
    "mlp.c_fc.bias": ("mlp.c_fc.bias", False),
    "mlp.c_proj.weight": ("mlp.c_proj.weight", True),
    "mlp.c_proj.bias": ("mlp.c_proj.bias", False),
}


def name_table(config: GPTConfig) -> dict[str, tuple[str, bool]]:
    """Return the table for a whole model."""
    table = dict(TABLE)
    for layer in range(config.n_layer):
        for neutral, (name, transposed) in BLOCK_TABLE.items():
            table[f"transformer.h.{layer}.{neutral}"] = (f"h.{layer}.{name}", transposed)
    return {neutral: entry for neutral, entry in table.items() if in_model(neutral, config)}


def from_neutral(weights: Weights, config: GPTConfig, dtype: torch.dtype) -> StateDict:
    """Return neutral weights, or moments, as a state dict of new tensors on the CPU."""

    def convert(neutral: str, transposed: bool) -> Tensor:
        array = weights[neutral]
        if neutral == "transformer.wte.weight":
            array = np.pad(array, ((0, config.padded_vocab_size - config.vocab_size), (0, 0)))
        array = array.astype(np.float64 if dtype == torch.float64 else np.float32)  # a copy
        return torch.from_numpy(array.T if transposed else array).contiguous()

    return {name: convert(neutral, flip) for neutral, (name, flip) in name_table(config).items()}


def to_neutral(tensors: Mapping[str, Tensor], config: GPTConfig) -> Weights:
    """Return a state dict, of weights or of moments, as neutral arrays of the same numbers."""

    def convert(neutral: str, name: str, transposed: bool) -> Array:
        array = tensors[name].detach().cpu().numpy()
        if neutral == "transformer.wte.weight":
            array = array[: config.vocab_size]
        return np.ascontiguousarray(array.T if transposed else array)

    return {n: convert(n, name, flip) for n, (name, flip) in name_table(config).items()}
