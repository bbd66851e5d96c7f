# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One model, two frameworks
#
# Load GPT-2 in PyTorch and in Flax, compare the two layer by layer, break one of them on
# purpose and find the layer, then move a run of AdamW from one framework to the other half-way.
#
# It needs this project installed: `pip install -e .` in a clone of it. `SOURCE` is a name on
# the Hugging Face Hub, a folder, or a file in any format that `python -m convert` reads; `tiny`
# makes a model with random weights, without a download.

# %%
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import PRESETS, SamplingOptions, StoppingOptions
from gpt_common.formats.registry import read_weights
from gpt_common.initialization import initialize_weights
from gpt_common.tokenizer import encode
from gpt_flax.generate import generate as generate_flax
from gpt_flax.generate import load_model as load_flax
from gpt_torch.generate import generate as generate_torch
from gpt_torch.generate import load_model as load_torch

jax.config.update("jax_enable_x64", True)  # before the first array: JAX has no float64 else
SOURCE = os.environ.get("SOURCE", "gpt2")
config = PRESETS["tiny"]
checkpoint = (
    Checkpoint(config, initialize_weights(config, 1)) if SOURCE == "tiny" else read_weights(SOURCE)
)
config = checkpoint.config
print(config)

# %% [markdown]
# ## Two models from one checkpoint
#
# A checkpoint is numpy: Hugging Face's names and layout. Each twin maps them to its own, by one
# table. GPT-2's kernels are `(in, out)`: PyTorch transposes them, Flax does not.

# %%
model_t = load_torch(checkpoint, torch.float64, torch.device("cpu"))
params, model_f = load_flax(checkpoint, "float64")
print("PyTorch", tuple(model_t.h[0].attn.c_attn.weight.shape))
print("Flax   ", params["h_0"]["attn"]["c_attn"]["kernel"].shape)
assert np.array_equal(
    model_t.h[0].attn.c_attn.weight.detach().numpy().T, params["h_0"]["attn"]["c_attn"]["kernel"]
)

# %% [markdown]
# ## The outputs of all layers
#
# PyTorch shows them by a hook on each module, Flax by `capture_intermediates`. In float64 a
# right port differs by rounding, 1e-15; a wrong one by far more, from the layer where it is
# wrong. In float32 both differ by 1e-6, and one cannot tell.

# %%
text = encode("O Romeo, Romeo! wherefore art thou Romeo?")[: config.block_size - 1]
x = np.array([text])


def layers_of_torch(model):
    """Return the output of each block, and the logits."""
    found = []
    hooks = [
        block.register_forward_hook(lambda m, i, out: found.append(out.detach().numpy()))
        for block in model.h
    ]
    logits, _ = model(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    return [*found, logits.detach().numpy()]


def layers_of_flax(params, model):
    """Return the output of each block, and the logits."""
    (logits, _), state = model.apply(
        {"params": params}, x, capture_intermediates=True, mutable=["intermediates"]
    )
    blocks = [state["intermediates"][f"h_{i}"]["__call__"][0] for i in range(model.config.n_layer)]
    return [*map(np.asarray, blocks), np.asarray(logits)]


def compare(params, model):
    """Print the relative difference of each layer; return the largest."""
    names = [f"block {i}" for i in range(model.config.n_layer)] + ["logits"]
    differences = []
    for name, a, b in zip(
        names, layers_of_torch(model_t), layers_of_flax(params, model), strict=True
    ):
        differences.append(np.linalg.norm(a - b) / np.linalg.norm(a))
        print(f"{name:9} {differences[-1]:.1e}")
    return max(differences)


assert compare(params, model_f) < 1e-13

# %% [markdown]
# ## Break it
#
# The classic mistake of a port: a square kernel that is transposed. Its shape fits, so nothing
# complains, and the text that it writes even looks like a text. The table shows the layer.

# %%
broken = jax.tree.map(lambda p: p, params)
broken["h_1"]["attn"]["c_proj"]["kernel"] = params["h_1"]["attn"]["c_proj"]["kernel"].T
assert compare(broken, model_f) > 1e-3

# %% [markdown]
# ## The same text

# %%
prompt, sampling, stopping = (
    [text[:8]],
    SamplingOptions(top_k=50),
    StoppingOptions(max_new_tokens=20),
)
written_t = generate_torch(model_t, prompt, sampling, stopping, dtype="float64")
written_f = generate_flax(params, model_f, prompt, sampling, stopping, dtype="float64")
print(written_t[0].text)
assert written_t[0].tokens == written_f[0].tokens

# %% [markdown]
# ## A run that changes its framework half-way
#
# AdamW's two moments and the position in the data are part of a checkpoint, and it is the same
# folder for both twins. Ten steps of a small model in PyTorch, ten more in Flax; beside them,
# twenty in PyTorch. In float64 all losses are the same.

# %%
folder = Path(tempfile.mkdtemp())


def train(framework, *flags):
    """Run the command of a twin."""
    how = ["--device", "cpu", "--eval_every", "0", "--log_every", "10"]
    command = [sys.executable, "-m", f"gpt_{framework}.train", *how, *map(str, flags)]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def losses(run):
    """Return the loss of each step, from the run's log."""
    entries = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if "loss" in entry]


new = ("--preset", "tiny", "--dtype", "float64", "--learning_rate", "1e-3")
train("torch", *new, "--steps", 20, "--out_dir", folder / "undisturbed")
train("torch", *new, "--steps", 10, "--out_dir", folder / "moved")
train("flax", "--resume", folder / "moved", "--steps", 20)

# %%
undisturbed, moved = np.array(losses(folder / "undisturbed")), np.array(losses(folder / "moved"))
print("largest relative difference", np.abs(moved / undisturbed - 1).max())
assert len(moved) == 20
assert np.abs(moved / undisturbed - 1).max() < 1e-13

# %% [markdown]
# To check a conversion of your own, for example in a pipeline: `python -m convert.verify A B
# --dtype float64` prints this table for two checkpoints, and its exit code is 1 if they do not
# agree.
