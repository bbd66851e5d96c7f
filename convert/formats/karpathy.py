"""What nanoGPT and build-nanogpt share: names, layout, and the fields of the model's shape."""

import os
from pathlib import Path
from typing import Any

from convert import torch_files
from convert.names import HEAD, check_weights, neutral_weights, transposed_linears
from gpt_common.config import Activation, GPTConfig
from gpt_common.errors import InputError
from gpt_common.storage import atomic_file
from gpt_common.weights import Weights

SHAPE_FIELDS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
MOST = 2**31 - 1  # of any count in their files, and in ours


def read_shape(fields: dict[str, Any], activation: Activation, source: str) -> GPTConfig:
    """Return the model's shape from the fields of theirs; a model has biases unless they say no.

    Raises `InputError` for a strange one.
    """
    sizes = {name: whole_number(fields.get(name), name, source) for name in SHAPE_FIELDS}
    bias = fields.get("bias", True)
    if type(bias) is not bool:
        raise InputError(f"{source}: bias: expected True or False, got {type(bias).__name__}")
    try:
        return GPTConfig(**sizes, activation=activation, bias=bias)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def whole_number(value: Any, name: str, source: str) -> int:
    """Return a count. Raises `InputError` where it is none, or a very large one."""
    if type(value) is not int or abs(value) > MOST:
        got = "one above 2**31" if type(value) is int else type(value).__name__
        raise InputError(f"{source}: {name}: expected a whole number, got {got}")
    return value


def read_weights(state: Any, config: GPTConfig, source: str) -> Weights:
    """Return neutral weights from a state dict. Raises `InputError` where they do not fit."""
    if not isinstance(state, dict):
        raise InputError(f"{source}: model: expected tensors by name, got {type(state).__name__}")
    tensors = neutral_weights(torch_files.to_arrays(state, source), source)
    return check_weights(transposed_linears(tensors), config, source)


def state_dict(weights: Weights) -> dict[str, Any]:
    """Return neutral weights as their state dict, the tied head under its second name too."""
    state = {name: torch_files.to_tensor(w) for name, w in transposed_linears(weights).items()}
    state[HEAD] = state["transformer.wte.weight"]
    return state


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a torch file, whole or not at all."""
    import torch

    with atomic_file(path) as part, open(os.fspath(part), "wb") as file:
        torch.save(content, file)
