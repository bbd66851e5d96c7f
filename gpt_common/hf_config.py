"""The model's configuration as Hugging Face's `config.json`."""

import dataclasses
from pathlib import Path
from typing import Any

from gpt_common import tokenizer
from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig
from gpt_common.errors import InputError, brief
from gpt_common.storage import read_json

NAMES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
    "activation": "activation_function",
    "bias": "bias",  # ours: Hugging Face's GPT-2 always has biases, which are then zeros
}
# Options of Hugging Face's GPT-2 that have one value here: another value is another model.
FIXED = {
    "model_type": "gpt2",
    "layer_norm_epsilon": LAYER_NORM_EPSILON,
    "n_inner": None,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}
MAX_SIZE = 2**31 - 1  # tokens and positions are int32
ACTIVATION_ALIASES = {"gelu_pytorch_tanh": "gelu_new"}


def read_config(path: Path) -> GPTConfig:
    """Return the configuration in a `config.json`.

    Raises `InputError` if the file is missing, damaged, or of another model.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file: weights alone do not say n_head")
    return config_from_hf(read_json(path), str(path))


def config_to_hf(config: GPTConfig) -> dict[str, Any]:
    """Return `config` as the content of a `config.json`."""
    fields = {NAMES[name]: value for name, value in dataclasses.asdict(config).items()}
    if config.bias:
        del fields["bias"]
    has_end = config.vocab_size > tokenizer.END_OF_TEXT_TOKEN
    end = tokenizer.END_OF_TEXT_TOKEN if has_end else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        **fields,
        **FIXED,
        "n_ctx": config.block_size,
        "initializer_range": 0.02,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), end),
    }


def config_from_hf(content: dict[str, Any], source: str) -> GPTConfig:
    """Return the configuration in the content of a `config.json`.

    Raises `InputError` if it is invalid or of another model. `source` names the file.
    """
    for name, expected in FIXED.items():
        if content.get(name, expected) != expected:
            raise InputError(f"{source}: expected {name} {expected}, got {brief(content[name])}")
    fields = {ours: content[theirs] for ours, theirs in NAMES.items() if theirs in content}
    activation = fields.pop("activation", "gelu_new")
    if not isinstance(activation, str):
        raise InputError(f"{source}: activation_function: expected a name, got {brief(activation)}")
    bias = fields.pop("bias", True)
    return make_config(fields, ACTIVATION_ALIASES.get(activation, activation), source, bias)


def make_config(sizes: dict[str, Any], activation: str, source: str, bias: Any = True) -> GPTConfig:
    """Return the configuration with values from a file.

    Raises `InputError` for invalid ones. `source` names the file.
    """
    if type(bias) is not bool:
        raise InputError(f"{source}: bias: expected true or false, got {brief(bias)}")
    for name, value in sizes.items():
        if type(value) is not int or value > MAX_SIZE:
            raise InputError(f"{source}: {name}: expected a whole number, got {brief(value)}")
    try:
        return GPTConfig(**sizes, activation=activation, bias=bias)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
