"""Runs of a tiny model in each twin, which together reach the lines whose shapes the pages show."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from docs._twins.shapes import CONFIG, SAMPLING, SIZES, Shapes, observe
from gpt_common.config import OptimizerOptions

ROOT = Path(__file__).parents[2]


@cache
def torch_shapes() -> dict[str, Shapes]:
    """Return the shapes in each file of the PyTorch twin, by its name."""
    import torch

    from gpt_torch.evaluate import token_logprobs
    from gpt_torch.fast import FastGPT, FastOps
    from gpt_torch.model import GPT
    from gpt_torch.optimizer import create_optimizer
    from gpt_torch.train import TrainState, train_step

    ops = FastOps(torch.backends.mkldnn.is_available(), True, loss_rows=SIZES["R"])
    model, fast = GPT(CONFIG), FastGPT(CONFIG, ops)
    batches = torch.zeros(SIZES["A"], SIZES["B"], SIZES["T"], dtype=torch.int64)
    x = y = batches[0]
    state = TrainState(model, create_optimizer(model, OptimizerOptions()))
    runs = (
        lambda: model(x, y),
        lambda: train_step(state, batches, batches, 1e-3, 1.0, "float32"),
        lambda: token_logprobs(model, x, y, "float32"),
        lambda: _read_in_torch(model, x),
        lambda: _decode_in_torch(model),
        lambda: fast.loss(x, y).backward(),
    )
    return observe(ROOT / "gpt_torch", runs)


def _read_in_torch(model: Any, tokens: Any) -> None:
    import torch

    from gpt_torch.cache import empty_cache, forward_cached

    cache = empty_cache(CONFIG, SIZES["B"], SIZES["S"], torch.float32, tokens.device)
    positions = torch.arange(SIZES["T"]).expand(tokens.shape)
    with torch.inference_mode():
        forward_cached(model, tokens, positions, tokens[:, 0], cache)


def _decode_in_torch(model: Any) -> None:
    import torch

    from gpt_torch.cache import empty_cache
    from gpt_torch.generate import DecodeState, decode

    R = SIZES["R"]
    token = position = torch.zeros(R, 1, dtype=torch.int64)
    seen = torch.zeros(R, SIZES["V"], dtype=torch.bool)
    cache = empty_cache(CONFIG, R, SIZES["S"], torch.float32, token.device)
    state = DecodeState(token, position, seen, cache, end=1)
    decode(model, state, np.zeros((R, SIZES["n"])), SAMPLING, "float32")


@cache
def flax_shapes() -> dict[str, Shapes]:
    """Return the shapes in each file of the Flax twin, by its name; nothing is computed."""
    import jax
    import jax.numpy as jnp

    from gpt_flax.evaluate import token_logprobs
    from gpt_flax.model import GPT

    model = GPT(CONFIG)
    batches = jnp.zeros((SIZES["A"], SIZES["B"], SIZES["T"]), jnp.int32)
    x = y = batches[0]
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    static: dict[str, Any] = {"model": model, "dtype": "float32"}
    runs = (
        lambda: _trace(model.apply, {"params": params}, x, y),
        lambda: _train_in_flax(params, batches, static),
        lambda: _trace(token_logprobs, params, x, y, **static),
        lambda: _read_in_flax(model, params, x),
        lambda: _decode_in_flax(params, static),
        lambda: _fast_in_flax(params, x),
    )
    return observe(ROOT / "gpt_flax", runs)


def _train_in_flax(params: Any, batches: Any, static: dict[str, Any]) -> None:
    import jax

    from gpt_flax.optimizer import create_optimizer
    from gpt_flax.train import TrainState, train_step

    optimizer = create_optimizer(OptimizerOptions())
    state = TrainState(params, jax.eval_shape(optimizer.init, params))
    of_step = {"optimizer": optimizer, "grad_clip": 1.0} | static
    _trace(train_step, state, batches, batches, 1e-3, **of_step)


def _fast_in_flax(params: Any, x: Any) -> None:
    import jax

    from gpt_flax.fast import FastGPT, FastOps

    model = FastGPT(CONFIG, FastOps(True, True, True, loss_rows=SIZES["R"]))
    _trace(jax.grad(lambda p: model.apply({"params": p}, x, x, method="loss")), params)


def _read_in_flax(model: Any, params: Any, tokens: Any) -> None:
    import jax.numpy as jnp

    from gpt_flax.cache import empty_cache, forward_cached

    cache = empty_cache(CONFIG, SIZES["B"], SIZES["S"], jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(SIZES["T"]), tokens.shape)
    inputs = tokens, positions, tokens[:, 0], cache
    _trace(model.apply, {"params": params}, *inputs, method=forward_cached)


def _decode_in_flax(params: Any, static: dict[str, Any]) -> None:
    import jax
    import jax.numpy as jnp

    from gpt_flax.cache import empty_cache
    from gpt_flax.generate import DecodeState, decode_steps

    R = SIZES["R"]
    with jax.enable_x64(True):
        token = position = jnp.zeros((R, 1), jnp.int64)
        seen = jnp.zeros((R, SIZES["V"]), bool)
        state = DecodeState(token, position, seen, empty_cache(CONFIG, R, SIZES["S"], jnp.float32))
        _trace(decode_steps, params, state, 1, jnp.zeros((R, 1)), sampling=SAMPLING, **static)


def _trace(function: Callable[..., Any], *args: Any, **static: Any) -> None:
    """Trace a function by shapes alone."""
    import jax

    jax.eval_shape(lambda *traced: function(*traced, **static), *args)
