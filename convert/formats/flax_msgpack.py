"""Parameters of `gpt_flax` in Flax's msgpack, with their configuration beside: `FILE.json`."""

from pathlib import Path
from typing import Any

import numpy as np

from convert.formats.base import Format, beside, config_of, first_bytes, write_config
from convert.names import check_weights, padded_weights, require_names
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError
from gpt_common.storage import atomic_file
from gpt_common.weights import Array, Weights

# How a msgpack map of at least one entry opens; nothing else here opens so.
FIRST_BYTES = {*range(0x81, 0x90), 0xDE, 0xDF}


def detect(path: Path) -> bool:
    """Whether a file opens as a msgpack map does."""
    return path.is_file() and first_bytes(path, 1)[:1] in {bytes([b]) for b in FIRST_BYTES}


def read(path: Path) -> Checkpoint:
    """Read a file, of `gpt_flax` or of Hugging Face's former Flax GPT-2."""
    from convert.formats import huggingface_flax

    config, tree = config_of(path), load(path)
    if "transformer" in tree:
        return Checkpoint(config, huggingface_flax.read_tree(tree, config, str(path)))
    return Checkpoint(config, read_tree(tree, config, str(path)))


def read_tree(tree: dict[str, Any], config: GPTConfig, source: str) -> Weights:
    """Return the neutral weights of a tree of `gpt_flax` parameters."""
    from gpt_flax.weights import name_table, to_neutral

    flat = flatten(tree, source)
    require_names(flat, dict.fromkeys(name_table(config).values()), source)
    return check_weights(to_neutral(tree, config), config, source)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file and its configuration beside it."""
    write_config(beside(path), checkpoint.config)
    with atomic_file(path) as part:
        save(part, flat_parameters(checkpoint))


def flat_parameters(checkpoint: Checkpoint) -> dict[str, Array]:
    """Return the parameters of `gpt_flax`, padded, by their paths."""
    from gpt_flax.weights import name_table

    weights = padded_weights(checkpoint)
    return {path: weights[name] for name, path in name_table(checkpoint.config).items()}


def flatten(tree: dict[str, Any], source: str) -> dict[str, Array]:
    """Return the arrays of a tree by their paths. Raises `InputError` for anything else in it."""
    from flax.traverse_util import flatten_dict

    try:
        flat = flatten_dict(tree, sep="/")
    except (TypeError, AssertionError):
        raise InputError(f"{source}: expected names that are text") from None
    for path, leaf in flat.items():
        if not isinstance(leaf, np.ndarray):
            raise InputError(f"{source}: {path}: expected an array, got {type(leaf).__name__}")
    return flat


def load(path: Path) -> dict[str, Any]:
    """Return the tree in a msgpack file. Raises `InputError` where it is damaged."""
    from flax.serialization import msgpack_restore

    try:
        tree = msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack, numpy and Flax each have their own
        raise InputError(f"{path}: expected a whole msgpack file, got: {error!r}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected a tree of arrays, got {type(tree).__name__}")
    return tree


def save(path: Path, flat: dict[str, Array]) -> None:
    """Write arrays, given by their paths, as a msgpack tree."""
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    contiguous = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    path.write_bytes(msgpack_serialize(unflatten_dict(contiguous, sep="/"), in_place=True))


FORMAT = Format("flax", ".msgpack of gpt_flax parameters, FILE.json beside", detect, read, write)
