"""The state dict of `gpt_torch` in a `.pt` file, with its configuration beside: `FILE.json`."""

from pathlib import Path

from convert import torch_files
from convert.formats.base import Format, config_of, described_file
from convert.names import (
    check_weights,
    cut_rows,
    padded_weights,
    require_names,
    unwrapped,
)
from gpt_common.checkpoint import Checkpoint
from gpt_common.errors import InputError, printable
from gpt_common.weights import Array, num_bytes, require_plausible


def detect(path: Path) -> bool:
    """Whether a file is torch's and holds tensors by `gpt_torch`'s names."""
    names = torch_files.peek(path)
    return any(isinstance(name, str) and unwrapped(name) == "wte.weight" for name in names)


def read(path: Path) -> Checkpoint:
    """Read a file; names may have the prefixes that torch.compile and DDP leave."""
    from gpt_torch.weights import name_table

    config, content = config_of(path), torch_files.load(path)
    arrays: dict[str, Array] = {}
    for name, array in torch_files.to_arrays(content, str(path)).items():
        if unwrapped(name) in arrays:
            raise InputError(f"{path}: duplicate {printable(unwrapped(name))}")
        arrays[unwrapped(name)] = array
    require_plausible(config, len(arrays), num_bytes(arrays), str(path))
    table = name_table(config)
    require_names(arrays, {name: None for name, _ in table.values()}, str(path))
    arrays["wte.weight"] = cut_rows(arrays["wte.weight"], config.vocab_size)
    weights = {n: arrays[name].T if flip else arrays[name] for n, (name, flip) in table.items()}
    return Checkpoint(config, check_weights(weights, config, str(path)))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file and its configuration beside it."""
    from gpt_torch.weights import name_table

    weights = padded_weights(checkpoint)
    state = {
        name: torch_files.to_tensor(weights[neutral].T if transposed else weights[neutral])
        for neutral, (name, transposed) in name_table(checkpoint.config).items()
    }
    with described_file(path, checkpoint.config) as part:
        torch_files.save(part, state)


FORMAT = Format(
    "torch", ".pt state dict of gpt_torch, FILE.json beside", detect, read, write, described=True
)
