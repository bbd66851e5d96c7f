"""Models in every format: what the tests of the formats write, read and compare."""

import dataclasses

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt_common.checkpoint import Checkpoint, TrainingState
from gpt_common.config import GPTConfig, TrainConfig
from gpt_common.formats import registry
from gpt_common.formats.registry import FORMATS
from gpt_common.hf_config import config_to_hf
from gpt_common.weights import weight_shapes
from tests.conftest import random_weights

ODD = GPTConfig(n_layer=3, n_head=5, n_embd=40, block_size=23, vocab_size=997)
WRITTEN = [name for name, form in FORMATS.items() if form.write]
TANH = {"build-nanogpt", "llmc"}  # nanoGPT computes the erf GELU, these two the tanh form


def activation_of(name):
    return "gelu" if name == "nanogpt" else "gelu_new"


def model(activation="gelu_new", dtype=np.float32, training=False):
    config = dataclasses.replace(ODD, activation=activation)
    weights = {k: w.astype(dtype) for k, w in random_weights(config).items()}
    state = TrainingState(
        step=9,
        exp_avg=random_weights(config, 2, 1e-3),
        exp_avg_sq={k: v**2 for k, v in random_weights(config, 3, 1e-3).items()},
        loader={"position": 0},
        options=TrainConfig().as_dict(),
    )
    return Checkpoint(config, weights, state if training else None)


def written(name, folder, checkpoint):
    """Write a checkpoint in a format, into a folder, and return where it lies."""
    path = folder / {"torch": "a.pt", "flax": "a.msgpack", "llmc": "a.bin"}.get(name, name)
    FORMATS[name].write(path, checkpoint)
    return path


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert first[name].tobytes() == second[name].tobytes(), name


def cached_by_hub(cache, name):
    """Return the folder of a model in the Hub's cache, of its only commit."""
    repository, commit = cache / f"models--{name.replace('/', '--')}", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


def hugging_face(**changes):
    torch.manual_seed(0)
    fields = config_to_hf(ODD) | changes
    return GPT2LMHeadModel(GPT2Config(**fields)).eval()


def assert_same_as(reference, path):
    """The weights of a Hugging Face model, by name."""
    checkpoint, _ = registry.read(str(path))
    state = reference.state_dict()
    assert checkpoint.weights.keys() == weight_shapes(ODD).keys()
    for name, weight in checkpoint.weights.items():
        assert weight.tobytes() == state[name].numpy().tobytes(), name
    return checkpoint


def nanogpt_state(reference, prefix=""):
    """The state dict that nanoGPT has for these weights: linear kernels the other way round."""
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {
        prefix + name: (v.T.contiguous() if name.endswith(linear) else v)
        for name, v in reference.state_dict().items()
    }
