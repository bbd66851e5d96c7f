"""The state of dynamic loss scaling (Micikevicius et al. 2018, arXiv:1710.03740), for float16.

The gradients are those of the loss times a scale, so that small ones do not underflow. They are
divided by it before they are clipped. If one is infinite or NaN, the update is skipped and the
scale halved; after `GROWTH_INTERVAL` updates in a row it is doubled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt_common.errors import FLOAT32_MAX, InputError, brief

# torch.amp.GradScaler's defaults.
GROWTH_FACTOR = 2.0
BACKOFF_FACTOR = 0.5
GROWTH_INTERVAL = 2000
MINIMUM = 1.0  # below it, a scale hides small gradients instead of showing them


@dataclass(frozen=True)
class LossScale:
    """The scale, and the number of updates in a row since it changed or one was skipped."""

    scale: float = 2.0**16
    growth_tracker: int = 0


def read_loss_scale(value: Any, source: str) -> LossScale | None:
    """Return the loss scale in a checkpoint, None if there is none. Raises `InputError`."""
    if value is None:
        return None
    source = f"{source}: loss_scale"
    if not isinstance(value, dict):
        raise InputError(f"{source}: expected an object, got {brief(value)}")
    scale: Any = value.get("scale")
    tracker: Any = value.get("growth_tracker")
    if type(scale) not in (int, float) or not 0 < scale <= FLOAT32_MAX:
        raise InputError(f"{source}: scale: expected a positive number, got {brief(scale)}")
    if type(tracker) is not int or not 0 <= tracker < GROWTH_INTERVAL:
        raise InputError(
            f"{source}: growth_tracker: expected 0 to {GROWTH_INTERVAL - 1}, got {brief(tracker)}"
        )
    return LossScale(float(scale), tracker)
