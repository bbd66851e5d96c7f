"""Weights frozen for generation: in the type that computes."""

import jax

from gpt_flax.model import GPT
from gpt_flax.weights import Params


def freeze(params: Params, model: GPT) -> Params:
    """Return the same weights for `generate`, which computes in the model's `dtype`.

    Embeddings and norms are shared; the other weights are copies, cast once and not at each step.
    They cannot be trained.
    """
    if model.dtype == params["wte"]["embedding"].dtype:
        return params

    def cast(path: tuple, weight: jax.Array) -> jax.Array:
        is_linear = any(key.key in ("attn", "mlp") for key in path)
        return weight.astype(model.dtype) if is_linear else weight

    frozen = jax.tree.map_with_path(cast, params)
    return frozen | {"lm_head": params["wte"]["embedding"].astype(model.dtype)}
