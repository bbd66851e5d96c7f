"""Weights as one flat dict of numpy arrays, with Hugging Face's GPT-2 names and layout.

Linear kernels are `(in, out)`; the tied head is stored once, as `transformer.wte.weight`. The
`weights.py` of each twin maps these names to its parameters.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from gpt_common.config import GPTConfig
from gpt_common.errors import InputError, printable

Array = npt.NDArray[np.floating]
Weights = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array that `read` returns when numpy needs it, so that it is in memory no longer.

    What writes arrays takes these, too.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        """The number of bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Return the array, for `np.asarray`."""
        array = self.read()
        return array if dtype is None else array.astype(dtype)


LazyWeights = Mapping[str, LazyArray]

EMBEDDING = "transformer.wte.weight"


def in_model(name: str, config: GPTConfig) -> bool:
    """Whether a model has a weight of this name: a bias only with `config.bias`."""
    return config.bias or not name.endswith(".bias")


def block_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one block's weights, by the names after `transformer.h.N.`."""
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
    """Return the shape of each weight of a model, by its Hugging Face name."""
    C, block = config.n_embd, block_shapes(config)
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, C),
        "transformer.wpe.weight": (config.block_size, C),
    }
    for layer in range(config.n_layer):
        shapes |= {f"transformer.h.{layer}.{name}": shape for name, shape in block.items()}
    last = {"transformer.ln_f.weight": (C,), "transformer.ln_f.bias": (C,)}
    return shapes | {name: shape for name, shape in last.items() if in_model(name, config)}


def num_parameters(config: GPTConfig) -> int:
    """Return the number of parameters, without padding: 124,439,808 for `gpt2`."""
    one = dataclasses.replace(config, n_layer=1)
    block = sum(math.prod(shape) for shape in block_shapes(config).values())
    return sum(map(math.prod, weight_shapes(one).values())) + (config.n_layer - 1) * block


def num_bytes(arrays: Mapping[str, Array]) -> int:
    """Return the total number of bytes of the arrays."""
    return sum(array.nbytes for array in arrays.values())


def require_plausible(config: GPTConfig, num_tensors: int, size: int, source: str) -> None:
    """Raise `InputError` if a configuration claims a larger model than a file of `size` bytes.

    Call it before anything of the claimed size is allocated, even a list of names.
    """
    if config.n_layer > num_tensors:
        raise InputError(
            f"{source}: expected the tensors of {config.n_layer} layers, got {num_tensors} tensors"
        )
    if (parameters := num_parameters(config)) > size:
        raise InputError(
            f"{source}: expected the bytes of {parameters} parameters, got {size} bytes"
        )


def match_weights(arrays: Mapping[str, Array], config: GPTConfig, source: str) -> Weights:
    """Return the weights of a model in the order of `weight_shapes`.

    Biases of zeros are dropped for a model without biases. Raises `InputError` for any other
    difference in names or shapes. `source` names the file.
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
    """Return weights with zeros for missing biases, for programs whose GPT-2 always has biases."""
    dtype = weights[EMBEDDING].dtype
    shapes = weight_shapes(dataclasses.replace(config, bias=True)).items()
    zeros = {n: np.zeros(shape, dtype) for n, shape in shapes if not in_model(n, config)}
    return weights | zeros


def check_shapes(
    arrays: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise `InputError`, naming `source`, if `arrays` has other names or shapes."""
    require_names(arrays, shapes, source)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise InputError(f"{source}: {name}: expected {shape}, got {arrays[name].shape}")


def require_names(found: Mapping[str, object], expected: Iterable[str], source: str) -> None:
    """Raise `InputError`, naming `source`, if `found` has other names."""
    names = dict.fromkeys(expected)
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{source}: missing {join_names(missing)}")
    if unexpected := [name for name in found if name not in names]:
        raise InputError(f"{source}: unexpected {join_names(unexpected)}")


def join_names(names: list[str]) -> str:
    """Return the first four names, and the number of the others, for a message."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(printable(name) for name in names[:4]) + more
