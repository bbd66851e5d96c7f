"""Dynamic loss scaling for float16, by torch's own `GradScaler`."""

import torch
from torch import Tensor
from torch.amp import GradScaler

from gpt_common.checkpoint import TrainingState
from gpt_common.config import DtypeOption
from gpt_common.loss_scale import BACKOFF_FACTOR, GROWTH_FACTOR, GROWTH_INTERVAL, LossScale


def create_scaler(
    dtype: DtypeOption, training: TrainingState | None, device: torch.device
) -> GradScaler | None:
    """Return the scaler at the start of a run, or of a resumed run; None except for float16."""
    if dtype != "float16":
        return None
    start = (training and training.loss_scale) or LossScale()
    scaler = GradScaler(device.type)
    scaler.load_state_dict(
        {
            "scale": start.scale,
            "_growth_tracker": start.growth_tracker,
            "growth_factor": GROWTH_FACTOR,
            "backoff_factor": BACKOFF_FACTOR,
            "growth_interval": GROWTH_INTERVAL,
        }
    )
    return scaler


def stored_scale(scaler: GradScaler | None) -> LossScale | None:
    """Return the state for the checkpoint, None except for float16; waits for the device."""
    if scaler is None:
        return None
    state = scaler.state_dict()
    return LossScale(state["scale"], state["_growth_tracker"])


def scale_loss(loss: Tensor, scaler: GradScaler | None) -> Tensor:
    """Return the loss whose gradients are those of `loss` times the scale, if any."""
    return loss if scaler is None else scaler.scale(loss)


def current_scale(scaler: GradScaler | None, device: torch.device) -> Tensor | None:
    """Return the scale as a new tensor on the device, None except for float16."""
    return None if scaler is None else scaler.scale(torch.ones((), device=device))


def scale_metrics(before: Tensor | None, after: Tensor | None) -> dict[str, Tensor]:
    """Return a step's scale, and whether its update was skipped, from the scales around it."""
    if before is None or after is None:
        return {}
    return {"loss_scale": before, "skipped": (after < before).to(before.dtype)}
