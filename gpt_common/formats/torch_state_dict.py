"""The state dict of `gpt_torch` in a `.pt` file, with its configuration in `FILE.json`."""

from pathlib import Path

from gpt_common.checkpoint import Checkpoint
from gpt_common.errors import InputError, printable
from gpt_common.formats import torch_files, twins
from gpt_common.formats.base import Format, config_of, file_with_config
from gpt_common.formats.names import check_weights, transposed_linears, unwrapped
from gpt_common.weights import Array


def torch_name(hf_name: str) -> str:
    """Return the name of a weight in `gpt_torch`: `h.0.attn.c_attn.weight`."""
    return hf_name.removeprefix("transformer.")


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
    weights = transposed_linears(twins.read_arrays(arrays, torch_name, config, str(path)))
    return Checkpoint(config, check_weights(weights, config, str(path)))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file and its configuration."""
    arrays = transposed_linears(twins.padded_arrays(checkpoint, torch_name))
    with file_with_config(path, checkpoint.config) as part:
        torch_files.save(part, {n: torch_files.to_tensor(array) for n, array in arrays.items()})


DESCRIPTION = ".pt state dict of gpt_torch, FILE.json beside"
FORMAT = Format("torch", DESCRIPTION, detect, read, write, has_config_file=True)
