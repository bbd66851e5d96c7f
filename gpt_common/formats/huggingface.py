"""Hugging Face folders: `config.json` with safetensors or torch's pickles, whole or in shards.

`huggingface` is also this project's own checkpoint, which may include the state of a run.
"""

import json
from functools import partial
from pathlib import Path

from gpt_common.checkpoint import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
    write_config_and_tokenizer,
)
from gpt_common.errors import InputError, printable
from gpt_common.formats import torch_files
from gpt_common.formats.base import Format, has_files
from gpt_common.formats.names import check_weights, hf_weights
from gpt_common.hf_config import read_config
from gpt_common.storage import atomic_folder, read_json, read_safetensors, write_safetensors
from gpt_common.weights import Array, Weights, num_bytes, with_zero_biases

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
SHARD_BYTES = 1 << 30


def read(path: Path, name: str) -> Checkpoint:
    """Read a folder, with the training state if it has a `training_state.json`."""
    config = read_config(path / "config.json")
    tensors = _read_shards(path, name) if name.endswith(".index.json") else _read_file(path / name)
    weights = check_weights(hf_weights(tensors, str(path / name)), config, str(path / name))
    has_training = name == SAFETENSORS and (path / "training_state.json").exists()
    training = read_checkpoint(path).training if has_training else None
    return Checkpoint(config, weights, training)


def _read_file(path: Path) -> dict[str, Array]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content = torch_files.load(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected tensors by name, got {type(content).__name__}")
    return torch_files.to_arrays(content, str(path))


def _read_shards(folder: Path, name: str) -> dict[str, Array]:
    """Return the tensors of all shards. Raises `InputError` if they contradict the index."""
    index = folder / name
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
        raise InputError(f"{index}: expected a weight_map of names and files")
    tensors: dict[str, Array] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file or not file.isprintable():
            raise InputError(f"{index}: expected a file name without folder, got {printable(file)}")
        for tensor, array in _read_file(folder / file).items():
            if files.get(tensor) != file:
                raise InputError(f"{folder / file}: {printable(tensor)} is elsewhere in the index")
            tensors[tensor] = array
    if absent := files.keys() - tensors.keys():
        raise InputError(f"{index}: {printable(min(absent))} is not in the file it names")
    return tensors


def write(path: Path, checkpoint: Checkpoint, name: str) -> None:
    """Write a folder, with the tokenizer."""
    if name == SAFETENSORS:
        write_checkpoint(path, checkpoint)
        return
    weights = with_zero_biases(checkpoint.weights, checkpoint.config)
    with atomic_folder(path) as part:
        write_config_and_tokenizer(part, checkpoint.config)
        if name == PICKLE:
            _write_file(part / name, weights)
        else:
            _write_shards(part, name, weights)


def _write_file(path: Path, weights: Weights) -> None:
    if path.suffix == ".safetensors":
        write_safetensors(path, weights)
        return
    torch_files.save(path, {name: torch_files.to_tensor(w) for name, w in weights.items()})


def _write_shards(folder: Path, name: str, weights: Weights) -> None:
    shards = split(weights, SHARD_BYTES)
    stem, ending = name.removesuffix(".index.json").rsplit(".", 1)
    files: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.{ending}"
        _write_file(folder / file, shard)
        files |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": num_bytes(weights)}, "weight_map": files}
    (folder / name).write_text(json.dumps(index, indent=2) + "\n")


def split(weights: Weights, limit: int) -> list[Weights]:
    """Return at least two shards, each of at most `limit` bytes or one tensor."""
    limit = min(limit, num_bytes(weights) // 2)
    shards: list[Weights] = [{}]
    for name, weight in weights.items():
        if shards[-1] and num_bytes(shards[-1]) + weight.nbytes > limit:
            shards.append({})
        shards[-1][name] = weight
    return shards


def _format(name: str, file: str, description: str) -> Format:
    return Format(
        name,
        description,
        has_files("config.json", file),
        partial(read, name=file),
        partial(write, name=file),
        keeps_training=file == SAFETENSORS,
    )


FORMATS = (
    _format("huggingface", SAFETENSORS, "folder with model.safetensors: this project's checkpoint"),
    _format(
        "huggingface-sharded", f"{SAFETENSORS}.index.json", "folder with safetensors in shards"
    ),
    _format("huggingface-bin", PICKLE, "folder with pytorch_model.bin"),
    _format("huggingface-bin-sharded", f"{PICKLE}.index.json", "folder with .bin shards"),
)
