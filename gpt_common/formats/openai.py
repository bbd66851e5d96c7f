"""OpenAI's original TensorFlow checkpoint: `hparams.json` and `model.ckpt.*`. Read only.

Requires TensorFlow: `pip install tensorflow`.
"""

from pathlib import Path

import numpy as np

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError, reason
from gpt_common.formats.base import Format, has_files
from gpt_common.formats.names import check_weights
from gpt_common.hf_config import make_config
from gpt_common.storage import read_json
from gpt_common.weights import Array, Weights, num_bytes, require_plausible, weight_shapes

FIELDS = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_ctx",
    "vocab_size": "n_vocab",
}


def tensorflow_name(name: str) -> str:
    """Return OpenAI's name of a weight: `model/h0/attn/c_attn/w`."""
    *parents, leaf = name.removeprefix("transformer.").replace("h.", "h", 1).split(".")
    last = parents[-1]
    if last in ("wte", "wpe"):
        return "/".join(["model", *parents])
    letter = "b" if leaf == "bias" else "g" if last.startswith("ln_") else "w"
    return "/".join(["model", *parents, letter])


def read(path: Path) -> Checkpoint:
    """Read a folder."""
    config = read_config(path / "hparams.json")
    arrays = load(path / "model.ckpt")
    require_plausible(config, len(arrays), num_bytes(arrays), str(path))
    names = {name: tensorflow_name(name) for name in weight_shapes(config)}
    # Kernels are convolutions of width 1: (1, in, out).
    weights: Weights = {
        ours: np.squeeze(arrays[theirs], 0) if arrays[theirs].ndim == 3 else arrays[theirs]
        for ours, theirs in names.items()
        if theirs in arrays
    }
    return Checkpoint(config, check_weights(weights, config, str(path)))


def read_config(path: Path) -> GPTConfig:
    """Return the configuration in `hparams.json`. Raises `InputError` if it is damaged."""
    content = read_json(path)
    sizes = {ours: content.get(theirs) for ours, theirs in FIELDS.items()}
    return make_config(sizes, "gelu_new", str(path))


def load(prefix: Path) -> dict[str, Array]:
    """Return the arrays of a TensorFlow checkpoint by name."""
    try:
        from tensorflow.train import load_checkpoint
    except ImportError:
        raise InputError(f"{prefix}: reading it needs TensorFlow: pip install tensorflow") from None
    try:
        reader = load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except Exception as error:  # TensorFlow has its own types
        raise InputError(
            f"{prefix}: expected a whole TensorFlow checkpoint, got: {reason(error)}"
        ) from None


DESCRIPTION = "OpenAI's TensorFlow folder, read only, needs TensorFlow"
FORMAT = Format("openai", DESCRIPTION, has_files("hparams.json", "model.ckpt.index"), read)
