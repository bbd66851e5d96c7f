"""Hugging Face's names <-> Flax parameters: one table, read in both directions."""

from functools import partial
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jax.typing import DTypeLike

from gpt_common.config import GPTConfig
from gpt_common.weights import (
    EMBEDDING,
    Array,
    LazyArray,
    LazyWeights,
    Weights,
    in_model,
    weight_shapes,
)
from gpt_flax.parallel import divide, to_host

Params = dict[str, Any]

# Hugging Face name -> Flax path. Linen's kernels are (in, out), as in GPT-2's files.
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
    """Return the table of a whole model."""
    table = dict(TABLE)
    for layer in range(config.n_layer):
        for hf_name, path in BLOCK_TABLE.items():
            table[f"transformer.h.{layer}.{hf_name}"] = f"h_{layer}/{path}"
    return {hf_name: path for hf_name, path in table.items() if in_model(hf_name, config)}


def from_hf(
    weights: Weights, config: GPTConfig, dtype: DTypeLike, mesh: Mesh | None = None
) -> Params:
    """Return Hugging Face's weights, or moments, as a parameter tree of new arrays.

    Of a mesh each device has its part.
    """
    flat: Params = {}
    for hf_name, path in name_table(config).items():
        array = np.asarray(weights[hf_name])
        if hf_name == EMBEDDING:
            array = np.pad(array, ((0, config.padded_vocab_size - config.vocab_size), (0, 0)))
        flat[path] = divide(array, dtype, mesh)
    return unflatten_dict(flat, sep="/")


def lazy_hf(params: Params, config: GPTConfig) -> LazyWeights:
    """Return `to_hf`, of which each array is gathered from the devices when it is read."""
    flat, shapes, lazy = flatten_dict(params, sep="/"), weight_shapes(config), {}
    for hf_name, path in name_table(config).items():
        array = flat[path]
        read = partial(hf_array, array, shapes[hf_name])
        lazy[hf_name] = LazyArray(shapes[hf_name], np.dtype(array.dtype), read)
    return lazy


def hf_array(array: jax.Array, shape: tuple[int, ...]) -> Array:
    """Return a weight or moment as Hugging Face has it, without the rows that pad the vocabulary.

    `shape` is Hugging Face's.
    """
    return np.ascontiguousarray(to_host(array)[: shape[0]])


def to_hf(params: Params, config: GPTConfig) -> Weights:
    """Return a parameter tree of weights or moments under Hugging Face's names, bit for bit."""
    return {name: np.asarray(array) for name, array in lazy_hf(params, config).items()}
