"""Conversion of names and layouts to Hugging Face's."""

import re
from collections.abc import Mapping

import numpy as np

from gpt_common.config import GPTConfig
from gpt_common.errors import InputError, printable
from gpt_common.storage import DTYPE_NAMES
from gpt_common.weights import EMBEDDING, Array, Weights, match_weights

WRAPPERS = ("_orig_mod.", "module.")  # prefixes by torch.compile and DistributedDataParallel
MASK_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$")
HEAD = "lm_head.weight"
# torch's nn.Linear stores these as (out, in).
LINEAR = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


def unwrapped(name: str) -> str:
    """Return a name without the prefixes of wrappers, in any order."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def hf_name(name: str) -> str:
    """Return the Hugging Face name for a name in Hugging Face's or nanoGPT's files."""
    name = unwrapped(name)
    return name if name == HEAD or name.startswith("transformer.") else f"transformer.{name}"


def hf_weights(tensors: Mapping[str, Array], source: str) -> Weights:
    """Return tensors under Hugging Face's names, without mask buffers and without the tied head.

    Raises `InputError` for duplicate names, or if the head differs from the embedding.
    """
    weights: Weights = {}
    for found, tensor in tensors.items():
        name = hf_name(found)
        if MASK_BUFFERS.search(name):
            continue
        if name in weights:
            raise InputError(f"{source}: duplicate {printable(name)} (again as {printable(found)})")
        weights[name] = tensor
    head = weights.pop(HEAD, None)
    embedding = weights.get(EMBEDDING)
    if head is not None and embedding is not None and not np.array_equal(head, embedding):
        raise InputError(f"{source}: expected {HEAD} tied to {EMBEDDING}, got different tensors")
    return weights


def check_weights(weights: Weights, config: GPTConfig, source: str) -> Weights:
    """Return `weights` in the order of `weight_shapes`.

    Raises `InputError` if names or shapes do not fit the configuration, or dtypes differ.
    """
    weights = match_weights(weights, config, source)
    types = {tensor.dtype for tensor in weights.values()}
    if len(types) != 1 or not types <= set(DTYPE_NAMES):
        found = ", ".join(sorted(str(dtype) for dtype in types))
        raise InputError(f"{source}: expected tensors of one floating type, got {found}")
    return weights


def transposed_linears(weights: Weights) -> Weights:
    """Return weights with linear kernels transposed: `(in, out)` <-> `(out, in)`."""
    return {name: w.T if LINEAR.search(name) and w.ndim == 2 else w for name, w in weights.items()}


def pad_rows(array: Array, rows: int) -> Array:
    """Return an embedding padded with zeros to `rows` rows."""
    return np.pad(array, ((0, rows - len(array)), (0, 0)))
