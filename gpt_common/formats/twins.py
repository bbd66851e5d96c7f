"""Shared by the formats of `gpt_torch` and `gpt_flax`: the order and the padded embedding."""

from collections.abc import Callable, Mapping

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.formats.names import pad_rows
from gpt_common.weights import (
    EMBEDDING,
    Array,
    Weights,
    num_bytes,
    require_names,
    require_plausible,
    weight_shapes,
)


def hf_names(config: GPTConfig) -> list[str]:
    """Return Hugging Face's names in the order of the twins' files: the blocks last."""
    return sorted(weight_shapes(config), key=lambda name: ".h." in name)


def read_arrays(
    arrays: Mapping[str, Array], twin_name: Callable[[str], str], config: GPTConfig, source: str
) -> Weights:
    """Return a twin's arrays under Hugging Face's names, without the rows of padding.

    `twin_name` maps a Hugging Face name to the twin's. Raises `InputError` for other names.
    """
    require_plausible(config, len(arrays), num_bytes(arrays), source)
    table = {name: twin_name(name) for name in hf_names(config)}
    require_names(arrays, table.values(), source)
    weights = {hf_name: arrays[name] for hf_name, name in table.items()}
    if weights[EMBEDDING].ndim:  # a scalar has no rows, and `check_weights` refuses it
        weights[EMBEDDING] = weights[EMBEDDING][: config.vocab_size]
    return weights


def padded_arrays(checkpoint: Checkpoint, twin_name: Callable[[str], str]) -> dict[str, Array]:
    """Return the weights under a twin's names, with the embedding padded as in memory."""
    config, weights = checkpoint.config, checkpoint.weights
    weights = weights | {EMBEDDING: pad_rows(weights[EMBEDDING], config.padded_vocab_size)}
    return {twin_name(name): weights[name] for name in hf_names(config)}
