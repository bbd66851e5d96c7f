"""Dynamic loss scaling for float16, as torch's `GradScaler` does it.

Flax's `DynamicScale` does not: it checks every batch of an update, and doubles the scale one step
later.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gpt_common.checkpoint import TrainingState
from gpt_common.config import DtypeOption
from gpt_common.loss_scale import BACKOFF_FACTOR, GROWTH_FACTOR, GROWTH_INTERVAL, LossScale
from gpt_flax.parallel import divide
from gpt_flax.weights import Params

T = TypeVar("T")


class Scaler(NamedTuple):
    """The state of the loss scale: see `LossScale`."""

    scale: Array
    growth_tracker: Array


def create_scaler(
    dtype: DtypeOption, training: TrainingState | None, mesh: Mesh | None
) -> Scaler | None:
    """Return the scaler at the start of a run, or of a resumed run; None except for float16."""
    if dtype != "float16":
        return None
    start = (training and training.loss_scale) or LossScale()
    return Scaler(
        divide(np.array(start.scale), jnp.float32, mesh),
        divide(np.array(start.growth_tracker), jnp.int32, mesh),
    )


def stored_scale(scaler: Scaler | None) -> LossScale | None:
    """Return the state for the checkpoint, None except for float16; waits for the device."""
    return scaler and LossScale(float(scaler.scale), int(scaler.growth_tracker))


def value_and_scaled_grad(
    loss_fn: Callable[..., Array], scaler: Scaler | None
) -> Callable[..., tuple[Array, Params]]:
    """Return `jax.value_and_grad(loss_fn)` with gradients of the loss times the scale, if any."""
    if scaler is None:
        return jax.value_and_grad(loss_fn)

    def value_and_grad(params: Params, *batch: Array) -> tuple[Array, Params]:
        loss, backward = jax.vjp(lambda p: loss_fn(p, *batch), params)
        return loss, *backward(scaler.scale)

    return value_and_grad


def unscale(gradients: Params, scaler: Scaler) -> tuple[Params, Array]:
    """Return the gradients divided by the scale, and whether all are finite."""
    inverse = 1 / scaler.scale
    gradients = jax.tree.map(lambda g: g * inverse, gradients)
    finite = jax.tree.map(lambda g: jnp.isfinite(g).all(), gradients)
    return gradients, jnp.stack(jax.tree.leaves(finite)).all()


def unless_skipped(finite: Array, new: T, old: T) -> T:
    """Return a new state where the gradients were `finite`, else the old one."""
    return jax.tree.map(partial(jnp.where, finite), new, old)


def update_scaler(scaler: Scaler, finite: Array) -> Scaler:
    """Return the scaler after an update, which was skipped unless the gradients were `finite`."""
    tracker = scaler.growth_tracker + 1
    grows = tracker == GROWTH_INTERVAL
    grown = scaler.scale * GROWTH_FACTOR
    scale = jnp.where(grows & jnp.isfinite(grown), grown, scaler.scale)
    return unless_skipped(
        finite,
        Scaler(scale, jnp.where(grows, 0, tracker)),
        Scaler(scaler.scale * BACKOFF_FACTOR, jnp.zeros_like(tracker)),
    )


def scale_metrics(before: Scaler | None, after: Scaler | None) -> dict[str, Array]:
    """Return a step's scale, and whether its update was skipped, from the scales around it."""
    if before is None or after is None:
        return {}
    return {"loss_scale": before.scale, "skipped": after.scale < before.scale}
