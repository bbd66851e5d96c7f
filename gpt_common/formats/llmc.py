"""llm.c's `.bin`: a header of 256 int32, then the weights, each kind for all layers together."""

import math
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig, round_up
from gpt_common.errors import InputError
from gpt_common.formats.base import Format, require_activation
from gpt_common.formats.names import LINEAR, check_weights, pad_rows
from gpt_common.hf_config import make_config
from gpt_common.storage import atomic_file, first_bytes, map_file, mapped_array, write_array
from gpt_common.weights import EMBEDDING, Array, Weights, block_shapes, with_zero_biases

NAME = "llmc"
MAGIC = 20240326
HEADER = 256  # int32 numbers
SIZES = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd")  # in the header's order
VERSIONS = {3: np.dtype(np.float32), 5: np.dtype(ml_dtypes.bfloat16)}
VOCAB_MULTIPLE = 128  # llm.c pads 50257 to 50304


def detect(path: Path) -> bool:
    """Whether a file opens with llm.c's magic number."""
    return path.is_file() and first_bytes(path, 4) == np.int32(MAGIC).tobytes()


def read_header(path: Path) -> tuple[GPTConfig, np.dtype, int]:
    """Return shape, dtype and embedding rows. Raises `InputError` for an invalid header."""
    header = np.fromfile(path, "<i4", HEADER)
    if len(header) < HEADER:
        raise InputError(f"{path}: expected a header of {HEADER} numbers, got {len(header)}")
    _, version, *sizes, rows = header[:8].tolist()
    if version not in VERSIONS:
        raise InputError(f"{path}: expected version 3 (float32) or 5 (bfloat16), got {version}")
    config = make_config(dict(zip(SIZES, sizes, strict=True)), "gelu_new", str(path))
    if rows < config.vocab_size:
        raise InputError(f"{path}: expected {config.vocab_size} embedding rows or more, got {rows}")
    return config, VERSIONS[version], rows


def layout(config: GPTConfig, rows: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the file's arrays in order; `*` in a name means each of the layers."""
    C = config.n_embd
    layers = {f"transformer.h.*.{name}": shape for name, shape in block_shapes(config).items()}
    return {
        EMBEDDING: (rows, C),
        "transformer.wpe.weight": (config.block_size, C),
        **{n: shape[::-1] if LINEAR.search(n) else shape for n, shape in layers.items()},
        "transformer.ln_f.weight": (C,),
        "transformer.ln_f.bias": (C,),
    }


def read(path: Path) -> Checkpoint:
    """Read a file, memory-mapped."""
    config, dtype, rows = read_header(path)
    shapes = {
        name: (config.n_layer, *shape) if "*" in name else shape
        for name, shape in layout(config, rows).items()
    }
    # With Python's integers: the product of the sizes in a header may overflow numpy's.
    expected = 4 * HEADER + dtype.itemsize * sum(map(math.prod, shapes.values()))
    if path.stat().st_size != expected:
        raise InputError(f"{path}: expected {expected} bytes, got {path.stat().st_size}")
    content = map_file(path)
    weights: Weights = {}
    offset = 4 * HEADER
    for name, shape in shapes.items():
        array = mapped_array(content, dtype, shape, offset)
        offset += array.nbytes
        weights |= _split(name, array)
    weights[EMBEDDING] = weights[EMBEDDING][: config.vocab_size]
    return Checkpoint(config, check_weights(weights, config, str(path)))


def _split(name: str, array: Array) -> Weights:
    """Return the array, or each of its layers, under Hugging Face's names and layout."""
    if "*" not in name:
        return {name: array}
    flip = LINEAR.search(name) is not None
    return {name.replace("*", str(i)): w.T if flip else w for i, w in enumerate(array)}


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file for llm.c. Raises `InputError` for a model that it cannot hold."""
    weights = with_zero_biases(checkpoint.weights, checkpoint.config)
    config = replace(checkpoint.config, bias=True)
    require_activation(config, "gelu_new", NAME)
    dtype = next(iter(weights.values())).dtype
    version = {kind: number for number, kind in VERSIONS.items()}.get(dtype)
    if version is None:
        raise InputError(f"{NAME} holds float32 or bfloat16, got {dtype}: see --dtype")
    rows = round_up(config.vocab_size, VOCAB_MULTIPLE)
    sizes = (getattr(config, name) for name in SIZES)
    header = np.zeros(HEADER, "<i4")
    header[:8] = (MAGIC, version, *sizes, rows)
    with atomic_file(path) as part, part.open("wb") as file:
        file.write(header.tobytes())
        for name in layout(config, rows):
            for layer in range(config.n_layer) if "*" in name else (0,):
                weight = weights[name.replace("*", str(layer))]
                if name == EMBEDDING:
                    weight = pad_rows(weight, rows)
                write_array(file, weight.T if "*" in name and LINEAR.search(name) else weight)


FORMAT = Format(NAME, "llm.c's .bin, float32 or bfloat16", detect, read, write, needs_biases=True)
