"""Neutral names <-> Flax parameters: one table, read in both directions."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array as JaxArray
from jax.typing import DTypeLike

from gpt_common.config import GPTConfig
from gpt_common.weights import Array, Weights, in_model

Params = dict[str, Any]

# Neutral name -> Flax path. Linen's kernels are (in, out), as the neutral ones are.
TABLE = {
    "transformer.wte.weight": "wte/embedding",
    "transformer.wpe.weight": "wpe/embedding",
    "transformer.ln_f.weight": "ln_f/scale",
    "transformer.ln_f.bias": "ln_f/bias",
}
BLOCK_TABLE = {
    "ln_1.weight": "ln_1/scale",
    "ln_1.bias": "ln_1/bias",
    "attn.c_attn.weight": "attn/c_attn/kernel",
    "attn.c_attn.bias": "attn/c_attn/bias",
    "attn.c_proj.weight": "attn/c_proj/kernel",
    "attn.c_proj.bias": "attn/c_proj/bias",
    "ln_2.weight": "ln_2/scale",
    "ln_2.bias": "ln_2/bias",
    "mlp.c_fc.weight": "mlp/c_fc/kernel",
    "mlp.c_fc.bias": "mlp/c_fc/bias",
    "mlp.c_proj.weight": "mlp/c_proj/kernel",
    "mlp.c_proj.bias": "mlp/c_proj/bias",
}


def name_table(config: GPTConfig) -> dict[str, str]:
    """Return the table for a whole model."""
    table = dict(TABLE)
    for layer in range(config.n_layer):
        for neutral, path in BLOCK_TABLE.items():
            table[f"transformer.h.{layer}.{neutral}"] = f"h_{layer}/{path}"
    return {neutral: path for neutral, path in table.items() if in_model(neutral, config)}


def from_neutral(weights: Weights, config: GPTConfig, dtype: DTypeLike) -> Params:
    """Return neutral weights, or moments, as a parameter tree of new arrays."""

    def convert(neutral: str) -> JaxArray:
        array = weights[neutral]
        if neutral == "transformer.wte.weight":
            array = np.pad(array, ((0, config.padded_vocab_size - config.vocab_size), (0, 0)))
        return jnp.array(array, dtype)  # a copy: a step gives its buffers away

    flat = {path: convert(neutral) for neutral, path in name_table(config).items()}
    return unflatten_dict(flat, sep="/")


def to_neutral(params: Params, config: GPTConfig) -> Weights:
    """Return a parameter tree, of weights or of moments, as neutral arrays of the same numbers."""
    flat = flatten_dict(params, sep="/")

    def convert(neutral: str, path: str) -> Array:
        array = np.asarray(flat[path])
        if neutral == "transformer.wte.weight":
            array = array[: config.vocab_size]
        return np.ascontiguousarray(array)

    return {neutral: convert(neutral, path) for neutral, path in name_table(config).items()}
