"""Parameters of `gpt_flax` in Flax's msgpack, with their configuration in `FILE.json`."""

from pathlib import Path
from typing import Any

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.formats import huggingface_flax, msgpack_files, twins
from gpt_common.formats.base import Format, config_of, file_with_config
from gpt_common.formats.msgpack_files import is_msgpack_file
from gpt_common.formats.names import check_weights
from gpt_common.weights import Weights


def flax_name(hf_name: str) -> str:
    """Return the path of a weight in the tree of `gpt_flax`: `h_0/attn/c_attn/kernel`."""
    path = huggingface_flax.flax_path(hf_name)
    return path.removeprefix("transformer/").replace("h/", "h_", 1)


def read(path: Path) -> Checkpoint:
    """Read a file, of `gpt_flax` or of Hugging Face's former Flax GPT-2."""
    config, tree = config_of(path), msgpack_files.load(path)
    read_any = huggingface_flax.read_tree if "transformer" in tree else read_tree
    return Checkpoint(config, read_any(tree, config, str(path)))


def read_tree(tree: dict[str, Any], config: GPTConfig, source: str) -> Weights:
    """Return the weights in a tree of `gpt_flax` parameters."""
    flat = msgpack_files.flatten(tree, source)
    return check_weights(twins.read_arrays(flat, flax_name, config, source), config, source)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file and its configuration."""
    with file_with_config(path, checkpoint.config) as part:
        msgpack_files.save(part, twins.padded_arrays(checkpoint, flax_name))


DESCRIPTION = ".msgpack of gpt_flax parameters, FILE.json beside"
FORMAT = Format("flax", DESCRIPTION, is_msgpack_file, read, write, has_config_file=True)
