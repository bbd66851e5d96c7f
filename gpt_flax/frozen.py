"""Weights frozen for generation: in the type that computes, laid out for products of few rows."""

import jax
import jax.numpy as jnp

from gpt_flax.model import GPT
from gpt_flax.ops import PLAIN, Ops
from gpt_flax.weights import Params


def freeze(params: Params, model: GPT, ops: Ops = PLAIN) -> tuple[Params, GPT]:
    """Return the same weights and model for `generate`, which computes in the model's `dtype`.

    Weights are cast once and not at each step, and the head is transposed, as the kernels are. What
    needs no copy is shared. They cannot be trained.
    """

    def cast(path: tuple, weight: jax.Array) -> jax.Array:
        is_linear = any(key.key in ("attn", "mlp") for key in path)
        return weight.astype(model.dtype) if is_linear else weight

    frozen = jax.tree.map_with_path(cast, params)
    head = jnp.array(params["wte"]["embedding"].T, model.dtype)
    return frozen | {"lm_head": head}, model.clone(ops=ops)
