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
# # The lecture, in Flax
#
# The well-known lecture that rebuilds GPT-2 124M from scratch, step by step, with the code of
# `gpt_flax`. Its twin is [the lecture in PyTorch](lecture_torch.ipynb): the same steps, the
# same numbers.
#
# It needs this project installed: `pip install -e .` in a clone of it. On a free GPU, such as a
# T4, everything runs in a minute or two; on a CPU set `PRESET` to `tiny`.

# %%
import inspect
import math
import os
from functools import partial

import jax
import jax.numpy as jnp

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import PRESETS, OptimizerOptions, SamplingOptions, StoppingOptions
from gpt_common.data import BatchLoader, load_tokens
from gpt_common.initialization import initialize_weights
from gpt_common.tokenizer import decode, encode
from gpt_flax.device import resolve_dtype, select_device
from gpt_flax.generate import generate, load_model
from gpt_flax.loss_scale import create_scaler
from gpt_flax.model import GPT, MLP, Block, CausalSelfAttention, cross_entropy
from gpt_flax.optimizer import create_optimizer
from gpt_flax.train import TrainState, compile_train_step, train_step

PRESET = os.environ.get("PRESET", "gpt2")
config = PRESETS[PRESET]
# On a T4 "float16" is faster than float32, which it takes by default.
dtype = os.environ.get("DTYPE") or resolve_dtype("auto", "auto")
device = select_device("auto", dtype)
print(config, device, dtype, sep="\n")


def show(*objects):
    """Print the source of a class or a function."""
    for thing in objects:
        print(inspect.getsource(thing))


# %% [markdown]
# ## 1. The model
#
# A GPT-2 is token and position embeddings, blocks, a last norm, and the token embedding again
# as the head. Each block adds to the residual stream twice: attention, where positions talk to
# each other, and an MLP, where each thinks alone.

# %%
show(CausalSelfAttention, MLP, Block)

# %%
show(GPT.hidden, GPT.head, GPT.__call__)

# %% [markdown]
# In Flax a model keeps nothing. `setup` only names its layers; the parameters are a tree of
# arrays that `init` returns and that each call of `apply` is given. That makes the model a
# function, which JAX can differentiate, compile and map.

# %%
fresh = GPT(config)
params = fresh.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
print(
    sum(p.size for p in jax.tree.leaves(params)), "parameters, padding of the vocabulary included"
)
for path, parameter in jax.tree.leaves_with_path(params)[:6]:
    print(f"{jax.tree_util.keystr(path):44} {parameter.shape}")

# %% [markdown]
# ## 2. Tokens, and batches
#
# GPT-2's byte-pair encoding, and the loader: a batch takes `B * T + 1` tokens, and the targets
# are the inputs shifted by one.

# %%
print(encode("Hello, I'm a language model,"))
tokens = load_tokens("shakespeare")
x, y = BatchLoader(tokens, batch_size=4, seq_len=6).next_batch()
print(x, y, sep="\n")
print(repr(decode(x[0].tolist())))

# %% [markdown]
# ## 3. The loss of random weights
#
# A model that gives each token the same probability has a loss of ln V. Both twins begin from
# these weights, the same bits: standard deviation 0.02, and 0.02 / sqrt(2 · layers) for the
# projections that add to the residual stream.

# %%
start = Checkpoint(config, initialize_weights(config, seed=1337))
params, model = load_model(start, "float32")
B, T = 4, min(32, config.block_size)
loader = BatchLoader(tokens, B, T)
x, y = loader.next_batch()
logits, loss = model.apply({"params": params}, x, y)
print(logits.shape, f"loss {loss:.4f}, ln V {math.log(config.vocab_size):.4f}")
assert abs(loss - math.log(config.vocab_size)) < 0.5
show(cross_entropy)

# %% [markdown]
# ## 4. One step of AdamW
#
# Gradients of a function, clip their norm to 1, update. Matrices and embeddings decay; biases
# and norms do not. Nothing is changed in place: a step returns the next state. `jax.jit`
# compiles it at the first call, and donation lets XLA reuse the memory of the old state.

# %%
show(train_step)

# %%
options = OptimizerOptions(learning_rate=3e-4 if PRESET == "gpt2" else 1e-2)
optimizer = create_optimizer(options)
static = {"model": model, "optimizer": optimizer, "grad_clip": options.grad_clip, "dtype": dtype}
step_fn = partial(compile_train_step(None), **static)
scaler = create_scaler(dtype, None, None)  # None except for float16
state = TrainState(params, optimizer.init(params), scaler)
x, y = BatchLoader(tokens, B, T).next_batches(1)
state, metrics = step_fn(state, x, y, options.learning_rate)
print({name: round(float(number), 4) for name, number in metrics.items()})

# %% [markdown]
# ## 5. Over-fit one batch
#
# A model that cannot learn four short texts by heart has a bug. The loss must fall to almost
# nothing.

# %%
for step in range(50):
    state, metrics = step_fn(state, x, y, options.learning_rate)
    if step % 10 == 9:
        print(f"step {step + 1:3} | loss {metrics['loss']:.4f}")
assert metrics["loss"] < loss - 1

# %% [markdown]
# ## 6. Fresh batches
#
# Now each step sees new text.

# %%
params, model = load_model(start, "float32")
state = TrainState(params, optimizer.init(params), create_scaler(dtype, None, None))
loader, losses = BatchLoader(tokens, B, T), []
for _ in range(50):
    x, y = loader.next_batches(1)
    state, metrics = step_fn(state, x, y, options.learning_rate)
    losses.append(float(metrics["loss"]))
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] < losses[0]

# %% [markdown]
# The PyTorch notebook prints the same losses: the weights, the batches and AdamW are the same.
# Compare these with its own.

# %%
print([round(each, 3) for each in losses[:10]])

# %% [markdown]
# ## 7. Write
#
# Each token is sampled from the sorted probabilities by a uniform sample that depends only on
# the seed, the sample and the position. So both twins write the same text.

# %%
prompt = encode("Hello, I'm a language model,")
stopping = StoppingOptions(max_new_tokens=20)
for completion in generate(
    state.params,
    model,
    [prompt],
    SamplingOptions(top_k=50, seed=42),
    stopping,
    num_samples=3,
    dtype=dtype,
):
    print(">", completion.text)

# %% [markdown]
# ## 8. From the notebook to the command
#
# The same, with a log, checkpoints and all that a run needs:
#
#     python -m gpt_flax.train --preset tiny --out_dir runs/notebook
#
# GPT-2's own weights: `gpt_flax.load("gpt2")` downloads them from the Hugging Face Hub. Next:
# [one model, two frameworks](one_model_two_frameworks.ipynb).
