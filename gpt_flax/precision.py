"""The dtype of the weights, and that of matrix products."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
    "float64": jnp.float64,
}


def master_dtype(dtype: DtypeOption) -> jnp.dtype:
    """Return the dtype of weights and moments: float64 for `--dtype float64`, else float32."""
    return jnp.dtype(jnp.float64 if dtype == "float64" else jnp.float32)


def product_dtype(dtype: Dtype, weights: DTypeLike) -> DTypeLike:
    """Return the dtype of matrix products: bfloat16 if `dtype` is, else that of the `weights`."""
    return jnp.bfloat16 if dtype == "bfloat16" else weights


def autocast(dtype: Dtype) -> AbstractContextManager:
    """Return a context in which matrix products compute in bfloat16, if `dtype` is bfloat16.

    Flax has no `torch.autocast`: this context gives Linen's layers their `dtype` at each call.
    Enter it inside the jitted function: `jit` does not know that it is part of the function.
    """
    return nn.intercept_methods(in_bfloat16) if dtype == "bfloat16" else nullcontext()


def in_bfloat16(
    method: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: InterceptorContext
) -> Any:
    """Call a method of a Linen module, in bfloat16 if it multiplies by a weight."""
    layer, name = context.module, context.method_name
    multiplies = (isinstance(layer, nn.Dense) and name == "__call__") or name == "attend"
    if not multiplies or layer.dtype is not None:
        return method(*args, **kwargs)
    layer_in_bfloat16 = layer.clone(dtype=jnp.bfloat16, parent=None)
    return layer_in_bfloat16.apply(layer.variables, *args, method=name)
