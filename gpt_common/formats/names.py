"""From the names and layouts in people's files to Hugging Face's."""

import re
from collections.abc import Mapping

import numpy as np

from gpt_common.config import GPTConfig
from gpt_common.errors import InputError, printable
from gpt_common.storage import DTYPE_NAMES
from gpt_common.weights import EMBEDDING, Array, Weights, match_weights

WRAPPERS = ("_orig_mod.", "module.")  # left in front by torch.compile and DistributedDataParallel
MASK_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$")
HEAD = "lm_head.weight"
# torch's nn.Linear keeps these as (out, in).
LINEAR = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


def unwrapped(name: str) -> str:
    """Return a name without the prefixes that wrappers leave, in any order."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def hf_name(name: str) -> str:
    """Return the Hugging Face name of a weight named as in Hugging Face's or nanoGPT's files."""
    name = unwrapped(name)
    return name if name == HEAD or name.startswith("transformer.") else f"transformer.{name}"


def hf_weights(tensors: Mapping[str, Array], source: str) -> Weights:
    """Return tensors under Hugging Face's names, without mask buffers and without the tied head.

    Raises `InputError` where two names become one, or where the head differs from the embedding.
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
        raise InputError(
            f"{source}: {HEAD} differs from {EMBEDDING}: GPT-2's head is its embedding, "
            f"and an untied one has no place in it"
        )
    return weights


def check_weights(weights: Weights, config: GPTConfig, source: str) -> Weights:
    """Return `weights` in the order of `weight_shapes`, of one floating type.

    Raises `InputError` where names or shapes do not fit the configuration, or types differ.
    """
    weights = match_weights(weights, config, source)
    types = {tensor.dtype for tensor in weights.values()}
    if len(types) != 1 or not types <= set(DTYPE_NAMES):
        found = ", ".join(sorted(str(dtype) for dtype in types))
        raise InputError(f"{source}: expected tensors of one floating type, got {found}")
    return weights


def transposed_linears(weights: Weights) -> Weights:
    """Return weights with the linear kernels transposed: `(in, out)` <-> `(out, in)`."""
    return {name: w.T if LINEAR.search(name) and w.ndim == 2 else w for name, w in weights.items()}


def pad_rows(array: Array, rows: int) -> Array:
    """Return an embedding with rows of zeros up to `rows`."""
    return np.pad(array, ((0, rows - len(array)), (0, 0)))
