"""Neutral weights: one flat dict of numpy arrays under Hugging Face's GPT-2 names and layout.

Linear kernels are `(in, out)`; the tied head is stored once, as `transformer.wte.weight`. Each
twin's `weights.py` maps these names to its own parameters.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gpt_common.config import GPTConfig
from gpt_common.errors import InputError, printable

Array = npt.NDArray[np.floating]
Weights = dict[str, Array]


def block_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes in one block, under names that follow `transformer.h.N.`."""
    C = config.n_embd
    return {
        "ln_1.weight": (C,),
        "ln_1.bias": (C,),
        "attn.c_attn.weight": (C, 3 * C),
        "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C),
        "attn.c_proj.bias": (C,),
        "ln_2.weight": (C,),
        "ln_2.bias": (C,),
        "mlp.c_fc.weight": (C, 4 * C),
        "mlp.c_fc.bias": (4 * C,),
        "mlp.c_proj.weight": (4 * C, C),
        "mlp.c_proj.bias": (C,),
    }


def weight_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a model, by its neutral name."""
    C = config.n_embd
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size, C),
        "transformer.wpe.weight": (config.block_size, C),
    }
    for layer in range(config.n_layer):
        for name, shape in block_shapes(config).items():
            shapes[f"transformer.h.{layer}.{name}"] = shape
    return shapes | {"transformer.ln_f.weight": (C,), "transformer.ln_f.bias": (C,)}


def num_parameters(config: GPTConfig) -> int:
    """Return the number of parameters: 124,439,808 for `gpt2`. The padded rows do not count."""
    one = dataclasses.replace(config, n_layer=1)
    block = sum(math.prod(shape) for shape in block_shapes(config).values())
    return sum(map(math.prod, weight_shapes(one).values())) + (config.n_layer - 1) * block


def num_bytes(arrays: Mapping[str, Array]) -> int:
    """Return the bytes of all arrays together."""
    return sum(array.nbytes for array in arrays.values())


def require_plausible(config: GPTConfig, num_tensors: int, size: int, source: str) -> None:
    """Raise `InputError` where a configuration is of a larger model than a file can hold.

    To be asked before anything of the size that it claims is made, were it only names. `size` is
    in bytes.
    """
    if config.n_layer > num_tensors:
        raise InputError(
            f"{source}: expected the tensors of {config.n_layer} layers, got {num_tensors} tensors"
        )
    if (parameters := num_parameters(config)) > size:
        raise InputError(
            f"{source}: expected the bytes of {parameters} parameters, got {size} bytes"
        )


def check_shapes(
    arrays: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise `InputError` unless `arrays` has exactly the names and shapes of `shapes`.

    `source` names the file in the message.
    """
    if missing := [name for name in shapes if name not in arrays]:
        raise InputError(f"{source}: missing {listing(missing)}")
    if unexpected := [name for name in arrays if name not in shapes]:
        raise InputError(f"{source}: unexpected {listing(unexpected)}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise InputError(f"{source}: {name}: expected {shape}, got {arrays[name].shape}")


def listing(names: list[str]) -> str:
    """Return names as text: the first four, and how many more."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(printable(name) for name in names[:4]) + more
