"""What nanoGPT and build-nanogpt share: names, layout, and the fields of the model's shape."""

from pathlib import Path
from typing import Any

import numpy as np

from convert import torch_files
from convert.names import HEAD, check_weights, neutral_weights, transposed_linears
from gpt_common.checkpoint import shape_of
from gpt_common.config import Activation, GPTConfig
from gpt_common.errors import InputError
from gpt_common.storage import atomic_file
from gpt_common.weights import Weights, weight_shapes

SHAPE_FIELDS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


def read_shape(fields: dict[str, Any], activation: Activation, source: str) -> GPTConfig:
    """Return the model's shape from the fields of theirs. Raises `InputError` for a strange one."""
    return shape_of({name: fields.get(name) for name in SHAPE_FIELDS}, activation, source)


def read_weights(state: Any, config: GPTConfig, source: str, biases: bool = True) -> Weights:
    """Return neutral weights from a state dict; without `biases`, zeros in the place of each."""
    if not isinstance(state, dict):
        raise InputError(f"{source}: model: expected tensors by name, got {type(state).__name__}")
    tensors = neutral_weights(torch_files.to_arrays(state, source), source)
    if not biases:
        tensors = zero_biases(config, tensors) | tensors
    return check_weights(transposed_linears(tensors), config, source)


def zero_biases(config: GPTConfig, like: Weights) -> Weights:
    """Return zeros for every bias: what a model without biases adds, exactly."""
    dtype = next((w.dtype for w in like.values()), np.dtype(np.float32))
    shapes = weight_shapes(config).items()
    return {name: np.zeros(shape, dtype) for name, shape in shapes if name.endswith(".bias")}


def state_dict(weights: Weights) -> dict[str, Any]:
    """Return neutral weights as their state dict, the tied head under its second name too."""
    state = {name: torch_files.to_tensor(w) for name, w in transposed_linears(weights).items()}
    state[HEAD] = state["transformer.wte.weight"]
    return state


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a torch file, whole or not at all."""
    with atomic_file(path) as part:
        torch_files.save(part, content)
