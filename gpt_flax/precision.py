"""The dtype of the weights, and that of matrix products."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.module import InterceptorContext
from jax.typing import DTypeLike

from gpt_common.config import Dtype, DtypeOption

DTYPES: dict[Dtype, DTypeLike] = {
    "float32": jnp.float32,
    "tf32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
    "float64": jnp.float64,
}
HALF: dict[Dtype, DTypeLike] = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}


def master_dtype(dtype: DtypeOption) -> jnp.dtype:
    """Return the dtype of weights and moments: float64 for `--dtype float64`, else float32."""
    return jnp.dtype(jnp.float64 if dtype == "float64" else jnp.float32)


def product_dtype(dtype: Dtype, weights: DTypeLike) -> DTypeLike:
    """Return the dtype of matrix products: `dtype` if it has 16 bits, else the `weights`'."""
    return HALF.get(dtype, weights)


def autocast(dtype: Dtype) -> AbstractContextManager:
    """Return a context in which matrix products compute in `dtype`, if it has 16 bits.

    Flax has no `torch.autocast`: this context gives Linen's layers their `dtype` at each call.
    Enter it inside the jitted function: `jit` does not know that it is part of the function.
    """
    return nn.intercept_methods(partial(in_half, HALF[dtype])) if dtype in HALF else nullcontext()


def in_half(
    dtype: DTypeLike,
    method: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    context: InterceptorContext,
) -> Any:
    """Call a method of a Linen module, in a dtype of 16 bits if it multiplies by a weight."""
    layer, name = context.module, context.method_name
    multiplies = (isinstance(layer, nn.Dense) and name == "__call__") or name == "attend"
    if not multiplies or layer.dtype is not None:
        return method(*args, **kwargs)
    layer_in_half = layer.clone(dtype=dtype, parent=None)
    return layer_in_half.apply(layer.variables, *args, method=name)
