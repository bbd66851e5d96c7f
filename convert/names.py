"""From the names and layouts that people's files have to the neutral ones."""

import re
from collections.abc import Mapping

import numpy as np

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError, printable
from gpt_common.storage import DTYPE_NAMES
from gpt_common.weights import Array, Weights, fitting_weights, listing

WRAPPERS = ("_orig_mod.", "module.")  # left in front by torch.compile and DistributedDataParallel
MASK_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$")
HEAD = "lm_head.weight"
EMBEDDING = "transformer.wte.weight"
# torch's nn.Linear keeps these as (out, in).
LINEAR = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


def unwrapped(name: str) -> str:
    """Return a name without the prefixes that wrappers leave, in whatever order."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def neutral_name(name: str) -> str:
    """Return the neutral name of a weight called as in Hugging Face's or nanoGPT's files."""
    name = unwrapped(name)
    return name if name == HEAD or name.startswith("transformer.") else f"transformer.{name}"


def neutral_weights(tensors: Mapping[str, Array], source: str) -> Weights:
    """Return tensors under their neutral names, without mask buffers and without the tied head.

    Raises `InputError` where two names become one, or where the head is not the embedding.
    """
    weights: Weights = {}
    for name, tensor in tensors.items():
        neutral = neutral_name(name)
        if MASK_BUFFERS.search(neutral):
            continue
        if neutral in weights:
            raise InputError(
                f"{source}: duplicate {printable(neutral)} (again as {printable(name)})"
            )
        weights[neutral] = tensor
    head = weights.pop(HEAD, None)
    embedding = weights.get(EMBEDDING)
    if head is not None and embedding is not None and not np.array_equal(head, embedding):
        raise InputError(
            f"{source}: {HEAD} differs from {EMBEDDING}: GPT-2's head is its embedding, "
            f"and an untied one has no place in it"
        )
    return weights


def check_weights(weights: Weights, config: GPTConfig, source: str) -> Weights:
    """Return `weights` in neutral order, all there, of the right shapes and of one floating type.

    Raises `InputError` where they are not.
    """
    weights = fitting_weights(weights, config, source)
    types = {tensor.dtype for tensor in weights.values()}
    if len(types) != 1 or not types <= set(DTYPE_NAMES):
        found = ", ".join(sorted(str(dtype) for dtype in types))
        raise InputError(f"{source}: expected tensors of one floating type, got {found}")
    return weights


def transposed_linears(weights: Weights) -> Weights:
    """Return weights with the linear kernels the other way round: `(in, out)` to `(out, in)`."""
    return {name: w.T if LINEAR.search(name) and w.ndim == 2 else w for name, w in weights.items()}


def cut_rows(array: Array, rows: int) -> Array:
    """Return the first rows of an embedding; as it is what has no rows, for `check_weights`."""
    return array[:rows] if array.ndim else array


def pad_rows(array: Array, rows: int) -> Array:
    """Return an embedding with rows of zeros up to `rows`."""
    return np.pad(array, ((0, rows - len(array)), (0, 0)))


def padded_weights(checkpoint: Checkpoint) -> Weights:
    """Return the weights with the embedding as the twins have it in memory, padded."""
    embedding = pad_rows(checkpoint.weights[EMBEDDING], checkpoint.config.padded_vocab_size)
    return checkpoint.weights | {EMBEDDING: embedding}


def require_names(found: Mapping[str, object], expected: Mapping[str, object], source: str) -> None:
    """Raise `InputError` where names are missing or there are more than expected."""
    if missing := [name for name in expected if name not in found]:
        raise InputError(f"{source}: missing {listing(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        raise InputError(f"{source}: unexpected {listing(unexpected)}")
