"""Hugging Face's former Flax GPT-2: a folder with `config.json` and `flax_model.msgpack`.

Its linear kernels are `(out, in)`: the transpose of ordinary Flax and of `model.safetensors`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt_common.checkpoint import Checkpoint, write_config_and_tokenizer
from gpt_common.config import GPTConfig
from gpt_common.formats import msgpack_files
from gpt_common.formats.base import Format, has_files
from gpt_common.formats.names import check_weights, transposed_linears
from gpt_common.hf_config import read_config
from gpt_common.storage import atomic_folder
from gpt_common.weights import (
    Weights,
    in_model,
    num_bytes,
    require_names,
    require_plausible,
    weight_shapes,
    with_zero_biases,
)

FILE = "flax_model.msgpack"


def flax_path(name: str) -> str:
    """Return a weight's path in the tree: `transformer/h/0/attn/c_attn/kernel`."""
    *parents, leaf = name.split(".")
    if leaf == "weight":
        last = parents[-1]
        norm = last.startswith("ln_")
        leaf = "scale" if norm else "embedding" if last in ("wte", "wpe") else "kernel"
    return "/".join([*parents, leaf])


def read(path: Path) -> Checkpoint:
    """Read a folder."""
    config = read_config(path / "config.json")
    return Checkpoint(config, read_tree(msgpack_files.load(path / FILE), config, str(path / FILE)))


def read_tree(tree: dict[str, Any], config: GPTConfig, source: str) -> Weights:
    """Return the weights in Hugging Face's tree."""
    flat = msgpack_files.flatten(tree, source)
    require_plausible(config, len(flat), num_bytes(flat), source)
    whole = weight_shapes(replace(config, bias=True))
    paths = {n: flax_path(n) for n in whole if in_model(n, config) or flax_path(n) in flat}
    require_names(flat, paths.values(), source)
    weights = transposed_linears({name: flat[path] for name, path in paths.items()})
    return check_weights(weights, config, source)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a folder, with the tokenizer."""
    weights = transposed_linears(with_zero_biases(checkpoint.weights, checkpoint.config))
    with atomic_folder(path) as part:
        write_config_and_tokenizer(part, checkpoint.config)
        msgpack_files.save(part / FILE, {flax_path(name): w for name, w in weights.items()})


DESCRIPTION = "folder with flax_model.msgpack, of transformers 4"
FORMAT = Format("huggingface-flax", DESCRIPTION, has_files("config.json", FILE), read, write)
