"""Hugging Face's names <-> torch parameters: one table, read in both directions."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
from gpt_torch.parallel import to_host

StateDict = dict[str, Tensor]

# Hugging Face name -> (torch name, transposed?): nn.Linear is (out, in), GPT-2's files (in, out).
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


class NoInitialization(TorchFunctionMode):
    """Context in which `torch.nn.init` leaves a module's weights as they are.

    The device `meta` has none, but there `normal_` imports torch's compiler, which takes longer
    than the import of torch.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Return the tensor of a function that initializes it, else what the function returns."""
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def name_table(config: GPTConfig) -> dict[str, tuple[str, bool]]:
    """Return the table of a whole model."""
    table = dict(TABLE)
    for layer in range(config.n_layer):
        for hf_name, (name, transposed) in BLOCK_TABLE.items():
            table[f"transformer.h.{layer}.{hf_name}"] = (f"h.{layer}.{name}", transposed)
    return {hf_name: entry for hf_name, entry in table.items() if in_model(hf_name, config)}


def iter_hf(
    weights: Weights, config: GPTConfig, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and values of `from_hf`, one in memory at a time."""
    for hf_name, (name, transposed) in name_table(config).items():
        array = np.asarray(weights[hf_name])
        if hf_name == EMBEDDING:
            array = np.pad(array, ((0, config.padded_vocab_size - config.vocab_size), (0, 0)))
        array = array.astype(np.float64 if dtype == torch.float64 else np.float32)  # a copy
        yield name, torch.from_numpy(array.T if transposed else array).contiguous()


def from_hf(weights: Weights, config: GPTConfig, dtype: torch.dtype) -> StateDict:
    """Return Hugging Face's weights, or moments, as a state dict of new CPU tensors."""
    return dict(iter_hf(weights, config, dtype))


def lazy_hf(tensors: Mapping[str, Tensor], config: GPTConfig) -> LazyWeights:
    """Return `to_hf`, of which each array is gathered from the devices when it is read."""
    shapes, lazy = weight_shapes(config), {}
    for hf_name, (name, transposed) in name_table(config).items():
        tensor = tensors[name]
        dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
        read = partial(hf_array, tensor, shapes[hf_name], transposed)
        lazy[hf_name] = LazyArray(shapes[hf_name], dtype, read)
    return lazy


def hf_array(tensor: Tensor, shape: tuple[int, ...], transposed: bool) -> Array:
    """Return a weight or moment as Hugging Face has it, without the rows that pad the vocabulary.

    `shape` is Hugging Face's.
    """
    array = to_host(tensor)
    array = array.T if transposed else array
    return np.ascontiguousarray(array[: shape[0]])


def to_hf(tensors: Mapping[str, Tensor], config: GPTConfig) -> Weights:
    """Return a state dict of weights or moments under Hugging Face's names, bit for bit."""
    return {name: np.asarray(array) for name, array in lazy_hf(tensors, config).items()}
