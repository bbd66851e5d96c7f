"""In which types weights are kept, and matrix products computed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.module import InterceptorContext
from jax import Array
from jax.typing import DTypeLike

from gpt_common.config import Dtype, DtypeOption

DTYPES: dict[Dtype, DTypeLike] = {
    "float32": jnp.float32,
    "tf32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float64": jnp.float64,
}


def master_dtype(dtype: DtypeOption) -> jnp.dtype:
    """Return the type of weights and moments: float64 if asked for, else float32."""
    return jnp.dtype(jnp.float64 if dtype == "float64" else jnp.float32)


def autocast(dtype: Dtype) -> AbstractContextManager:
    """Return the context in which matrix products compute in bfloat16, where `dtype` is that.

    Flax has no `torch.autocast`: this one intercepts the two layers of Linen that multiply by a
    weight. Enter it inside the function that is compiled, as `jit` does not see it.
    """
    return nn.intercept_methods(in_bfloat16) if dtype == "bfloat16" else nullcontext()


def in_bfloat16(
    method: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: InterceptorContext
) -> Any:
    """Call a method of Linen, with the matrix products of `nn.Dense` and `nn.Embed` in bfloat16."""
    layer, name = context.module, context.method_name
    if isinstance(layer, nn.Dense) and name == "__call__":
        return dense(layer, *args)
    if isinstance(layer, nn.Embed) and name == "attend":
        (x,) = args
        return x.astype(jnp.bfloat16) @ layer.embedding.astype(jnp.bfloat16).T
    return method(*args, **kwargs)


def dense(layer: nn.Dense, x: Array) -> Array:
    """Map `(..., in)` to `(..., out)` in bfloat16, as `nn.Dense` of that `dtype` does."""
    kernel, bias = weights_of(layer)
    y = x.astype(jnp.bfloat16) @ kernel.astype(jnp.bfloat16)
    return y if bias is None else y + bias.astype(jnp.bfloat16)


def weights_of(layer: nn.Dense) -> tuple[Array, Array | None]:
    """Return a layer's kernel `(in, out)` and, if any, its bias `(out,)`."""
    params = layer.variables["params"]
    return params["kernel"], params.get("bias")
