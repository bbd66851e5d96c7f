"""Shared by the formats of nanoGPT and build-nanogpt: names, layout, configuration."""

from pathlib import Path
from typing import Any

from gpt_common.config import Activation, GPTConfig
from gpt_common.errors import InputError, brief
from gpt_common.formats import torch_files
from gpt_common.formats.names import HEAD, check_weights, hf_weights, transposed_linears
from gpt_common.hf_config import MAX_SIZE, make_config
from gpt_common.storage import atomic_file
from gpt_common.weights import EMBEDDING, Weights

SHAPE_FIELDS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


def read_shape(fields: dict[str, Any], activation: Activation, source: str) -> GPTConfig:
    """Return the configuration in a file's fields; raises `InputError` for invalid ones."""
    sizes = {name: fields.get(name) for name in SHAPE_FIELDS}
    return make_config(sizes, activation, source, fields.get("bias", True))


def whole_number(value: Any, name: str, source: str) -> int:
    """Return `value`. Raises `InputError` unless it is an integer of at most `MAX_SIZE`."""
    if type(value) is not int or abs(value) > MAX_SIZE:
        raise InputError(f"{source}: {name}: expected a whole number, got {brief(value)}")
    return value


def read_weights(state: Any, config: GPTConfig, source: str) -> Weights:
    """Return the weights in a state dict. Raises `InputError` if they do not fit `config`."""
    if not isinstance(state, dict):
        raise InputError(f"{source}: model: expected tensors by name, got {type(state).__name__}")
    tensors = hf_weights(torch_files.to_arrays(state, source), source)
    return check_weights(transposed_linears(tensors), config, source)


def state_dict(weights: Weights) -> dict[str, Any]:
    """Return weights as nanoGPT's state dict, with the tied head under its second name."""
    state = {name: torch_files.to_tensor(w) for name, w in transposed_linears(weights).items()}
    state[HEAD] = state[EMBEDDING]
    return state


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a torch file atomically."""
    with atomic_file(path) as part:
        torch_files.save(part, content)
