"""`InferenceGPT`: a model for generation, its weights cast once and its head untied."""

from typing import NewType

import jax
import jax.numpy as jnp
from flax.linen.initializers import normal
from jax import Array

from gpt_common.config import Dtype
from gpt_common.initialization import INITIAL_STD
from gpt_flax.fast import FastGPT, FastOps, matmul
from gpt_flax.model import GPT
from gpt_flax.precision import product_dtype
from gpt_flax.weights import Params

InferenceParams = NewType("InferenceParams", Params)  # of an `InferenceGPT`


class InferenceGPT(FastGPT):
    """A GPT-2 for generation, which cannot be trained; `prepare_for_inference` creates it."""

    def setup(self) -> None:
        super().setup()
        shape = (self.config.n_embd, self.config.padded_vocab_size)
        self.lm_head = self.param("lm_head", normal(INITIAL_STD), shape)

    def head(self, x: Array) -> Array:
        """Return the logits `(..., V)` of the residual stream `(..., C)`, after its last norm."""
        x, lm_head = self.ln_f(x).astype(self.dtype), self.lm_head.astype(self.dtype)
        logits = matmul(x, lm_head) if self.ops.dense_2d else x @ lm_head
        return logits[..., : self.config.vocab_size].astype(self.wte.embedding.dtype)


def prepare_for_inference(
    params: Params, model: GPT, dtype: Dtype, ops: FastOps | None = None
) -> tuple[InferenceParams, InferenceGPT]:
    """Return the same weights and a model for `generate`, which computes in `dtype`.

    Weights are cast once, not in each step, and the head is transposed, to `(in, out)` as kernels
    are. Weights that need no copy are shared.
    """
    compute = product_dtype(dtype, params["wte"]["embedding"].dtype)

    def cast(path: tuple, weight: Array) -> Array:
        is_linear = any(key.key in ("attn", "mlp") for key in path)
        return weight.astype(compute) if is_linear else weight

    lm_head = jnp.array(params["wte"]["embedding"].T, compute)
    prepared = InferenceParams(jax.tree.map_with_path(cast, params) | {"lm_head": lm_head})
    return prepared, InferenceGPT(model.config, ops or FastOps(), compute)
