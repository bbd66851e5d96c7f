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


def in_model(name: str, config: GPTConfig) -> bool:
    """Whether a model of this shape has the weight of this name: it may be without biases."""
    return config.bias or not name.endswith(".bias")


def block_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes in one block, under names that follow `transformer.h.N.`."""
    C = config.n_embd
    shapes: dict[str, tuple[int, ...]] = {
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
    return {name: shape for name, shape in shapes.items() if in_model(name, config)}


def weight_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a model, by its neutral name."""
    C, block = config.n_embd, block_shapes(config)
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size, C),
        "transformer.wpe.weight": (config.block_size, C),
    }
    for layer in range(config.n_layer):
        shapes |= {f"transformer.h.{layer}.{name}": shape for name, shape in block.items()}
    last = {"transformer.ln_f.weight": (C,), "transformer.ln_f.bias": (C,)}
    return shapes | {name: shape for name, shape in last.items() if in_model(name, config)}


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


def fitting_weights(arrays: Mapping[str, Array], config: GPTConfig, source: str) -> Weights:
    """Return the weights of a model in their order, without the zeros for biases it does not have.

    Raises `InputError` unless `arrays` has exactly its weights, and at most zeros for such biases.
    `source` names the file in the message.
    """
    require_plausible(config, len(arrays), num_bytes(arrays), source)
    whole = weight_shapes(dataclasses.replace(config, bias=True))
    shapes = {name: s for name, s in whole.items() if in_model(name, config) or name in arrays}
    check_shapes(arrays, shapes, source)
    for name in shapes:
        if not in_model(name, config) and arrays[name].any():
            raise InputError(f"{source}: {name}: expected zeros, as the model has no biases")
    return {name: arrays[name] for name in shapes if in_model(name, config)}


def with_zero_biases(weights: Weights, config: GPTConfig) -> Weights:
    """Return weights with zeros in the place of each bias that the model does not have.

    They are those of the same function, for programs that know no model without biases.
    """
    dtype = weights["transformer.wte.weight"].dtype
    shapes = weight_shapes(dataclasses.replace(config, bias=True)).items()
    zeros = {n: np.zeros(shape, dtype) for n, shape in shapes if not in_model(n, config)}
    return weights | zeros


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
