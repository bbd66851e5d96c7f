"""The state dict of `gpt_torch` in a `.pt` file, with its configuration beside: `FILE.json`."""

from pathlib import Path

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError, printable
from gpt_common.formats import torch_files
from gpt_common.formats.base import Format, config_of, described_file
from gpt_common.formats.names import (
    check_weights,
    cut_rows,
    names_in_twins,
    padded_weights,
    transposed_linears,
    unwrapped,
)
from gpt_common.weights import Array, num_bytes, require_names, require_plausible


def name_table(config: GPTConfig) -> dict[str, str]:
    """Return `gpt_torch`'s name of each Hugging Face name: `h.0.attn.c_attn.weight`."""
    return {name: name.removeprefix("transformer.") for name in names_in_twins(config)}


def detect(path: Path) -> bool:
    """Whether a file is torch's and holds tensors by `gpt_torch`'s names."""
    names = torch_files.peek(path)
    return any(isinstance(name, str) and unwrapped(name) == "wte.weight" for name in names)


def read(path: Path) -> Checkpoint:
    """Read a file; names may have the prefixes that torch.compile and DDP leave."""
    config, content = config_of(path), torch_files.load(path)
    arrays: dict[str, Array] = {}
    for name, array in torch_files.to_arrays(content, str(path)).items():
        if unwrapped(name) in arrays:
            raise InputError(f"{path}: duplicate {printable(unwrapped(name))}")
        arrays[unwrapped(name)] = array
    require_plausible(config, len(arrays), num_bytes(arrays), str(path))
    table = name_table(config)
    require_names(arrays, table.values(), str(path))
    arrays["wte.weight"] = cut_rows(arrays["wte.weight"], config.vocab_size)
    weights = transposed_linears({hf_name: arrays[name] for hf_name, name in table.items()})
    return Checkpoint(config, check_weights(weights, config, str(path)))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file and its configuration beside it."""
    weights, table = transposed_linears(padded_weights(checkpoint)), name_table(checkpoint.config)
    state = {name: torch_files.to_tensor(weights[hf_name]) for hf_name, name in table.items()}
    with described_file(path, checkpoint.config) as part:
        torch_files.save(part, state)


FORMAT = Format(
    "torch", ".pt state dict of gpt_torch, FILE.json beside", detect, read, write, described=True
)
