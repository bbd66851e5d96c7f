"""AdamW: weight decay, clipping, and its state under Hugging Face's names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from gpt_common.checkpoint import TrainingState
from gpt_common.config import GPTConfig, OptimizerOptions
from gpt_common.weights import LazyWeights
from gpt_flax.loss_scale import Scaler, unless_skipped, unscale, update_scaler
from gpt_flax.parallel import divide
from gpt_flax.weights import Params, from_hf, lazy_hf

CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_'s


def has_weight_decay(parameter: Array) -> bool:
    """Whether weight decay applies: to matrices and embeddings, not to biases and norms."""
    return parameter.ndim >= 2


def create_optimizer(options: OptimizerOptions) -> optax.GradientTransformation:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with weight decay of matrices only.

    Its learning rate is 1: each training step scales the update by the step's learning rate.
    """
    return optax.adamw(
        learning_rate=1.0,
        b1=options.beta1,
        b2=options.beta2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        mask=lambda params: jax.tree.map(has_weight_decay, params),
    )


def global_norm(gradients: Params) -> Array:
    """Return the Euclidean norm of all gradients together."""
    return optax.tree.norm(gradients)


def clip_by_global_norm(gradients: Params, max_norm: float) -> tuple[Params, Array]:
    """Return gradients scaled to a global norm of at most `max_norm`, and the norm before.

    `max_norm` 0 turns clipping off.
    """
    norm = global_norm(gradients)
    if max_norm > 0:
        scale = jnp.minimum(max_norm / (norm + CLIP_EPSILON), 1.0)
        gradients = jax.tree.map(lambda g: g * scale, gradients)
    return gradients, norm


def clip_and_update(
    params: Params,
    gradients: Params,
    optimizer: optax.GradientTransformation,
    opt_state: optax.OptState,
    scaler: Scaler | None,
    learning_rate: float,
    max_norm: float,
) -> tuple[Params, optax.OptState, Scaler | None, Array]:
    """Return parameters, AdamW's state and scaler after the update, and the norm before clipping.

    A scaler of float16 unscales the gradients first, and skips the update if one is not finite.
    """
    if scaler is not None:
        gradients, finite = unscale(gradients, scaler)
    gradients, norm = clip_by_global_norm(gradients, max_norm)
    updates, new_opt_state = optimizer.update(gradients, opt_state, params)
    new_params = jax.tree.map(lambda p, u: p + learning_rate * u, params, updates)
    if scaler is None:
        return new_params, new_opt_state, None, norm
    new, old = (new_params, new_opt_state), (params, opt_state)
    return *unless_skipped(finite, new, old), update_scaler(scaler, finite), norm


def optimizer_step(opt_state: optax.OptState) -> int:
    """Return AdamW's own step count, which is without the updates that were skipped."""
    return int(optax.tree.get(opt_state, "count"))


def state_to_hf(opt_state: optax.OptState, config: GPTConfig) -> tuple[LazyWeights, LazyWeights]:
    """Return AdamW's first and second moments under Hugging Face's names, each read when needed."""
    exp_avg = optax.tree.get(opt_state, "mu")
    exp_avg_sq = optax.tree.get(opt_state, "nu")
    return lazy_hf(exp_avg, config), lazy_hf(exp_avg_sq, config)


def restore_state(
    opt_state: optax.OptState,
    config: GPTConfig,
    training: TrainingState,
    mesh: Mesh | None = None,
) -> optax.OptState:
    """Return AdamW's state with the moments and the step of a checkpoint."""
    step = training.adamw_step
    dtype = jax.tree.leaves(optax.tree.get(opt_state, "mu"))[0].dtype
    return optax.tree.set(
        opt_state,
        count=divide(np.array(step), jnp.int32, mesh),
        mu=from_hf(training.exp_avg, config, dtype, mesh),
        nu=from_hf(training.exp_avg_sq, config, dtype, mesh),
    )
