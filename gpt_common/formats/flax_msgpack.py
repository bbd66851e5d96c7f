"""Parameters of `gpt_flax` in Flax's msgpack, with their configuration beside: `FILE.json`."""

from pathlib import Path
from typing import Any

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.formats import huggingface_flax, msgpack_files
from gpt_common.formats.base import Format, config_of, described_file
from gpt_common.formats.names import check_weights, cut_rows, names_in_twins, padded_weights
from gpt_common.weights import (
    EMBEDDING,
    Array,
    Weights,
    num_bytes,
    require_names,
    require_plausible,
)


def name_table(config: GPTConfig) -> dict[str, str]:
    """Return the path in the tree of each Hugging Face name: `h_0/attn/c_attn/kernel`."""
    paths = {n: huggingface_flax.flax_path(n) for n in names_in_twins(config)}
    return {n: p.removeprefix("transformer/").replace("h/", "h_", 1) for n, p in paths.items()}


def read(path: Path) -> Checkpoint:
    """Read a file, of `gpt_flax` or of Hugging Face's former Flax GPT-2."""
    config, tree = config_of(path), msgpack_files.load(path)
    if "transformer" in tree:
        return Checkpoint(config, huggingface_flax.read_tree(tree, config, str(path)))
    return Checkpoint(config, read_tree(tree, config, str(path)))


def read_tree(tree: dict[str, Any], config: GPTConfig, source: str) -> Weights:
    """Return the weights in a tree of `gpt_flax` parameters under Hugging Face's names."""
    flat = msgpack_files.flatten(tree, source)
    require_plausible(config, len(flat), num_bytes(flat), source)
    table = name_table(config)
    require_names(flat, table.values(), source)
    weights = {name: flat[path] for name, path in table.items()}
    weights[EMBEDDING] = cut_rows(weights[EMBEDDING], config.vocab_size)
    return check_weights(weights, config, source)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file and its configuration beside it."""
    with described_file(path, checkpoint.config) as part:
        msgpack_files.save(part, flat_parameters(checkpoint))


def flat_parameters(checkpoint: Checkpoint) -> dict[str, Array]:
    """Return the parameters of `gpt_flax`, padded, by their paths."""
    weights = padded_weights(checkpoint)
    return {path: weights[name] for name, path in name_table(checkpoint.config).items()}


FORMAT = Format(
    "flax",
    ".msgpack of gpt_flax parameters, FILE.json beside",
    msgpack_files.is_msgpack_file,
    read,
    write,
    described=True,
)
