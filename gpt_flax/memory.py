"""The devices of a run, and what a training step keeps in their memory."""

import jax
from jax.sharding import Mesh

from gpt_common.config import Dtype
from gpt_common.estimate import Footprint, Target
from gpt_flax.fast import FastOps
from gpt_flax.precision import HALF


def footprint(ops: FastOps | None, dtype: Dtype, device_type: str) -> Footprint:
    """Return what a training step keeps, unless XLA recomputes it because memory is short.

    Measured with programs that XLA has compiled (`python -m benchmarks.memory`). Besides what the
    torch twin keeps, a block keeps the scores of attention if no fast operation recomputes them.
    """
    size = 8 if dtype == "float64" else 4
    ops = ops or FastOps()
    attends = ops.blockwise_attention or ops.cudnn_attention
    if device_type == "cpu":
        width = 2 if dtype in HALF and attends else size
        channel, stream, score = 2 * size + 20 * width, 8 * size, 3 * size
        logit = 2 * size if ops.loss_rows else 2.9 * size
    else:
        width = 2 if dtype in HALF else size
        channel, stream = 2 * size + (17 if width < size else 14) * width, 3 * size
        score, logit = size + width, size + width
        if ops.loss_rows and width == size:
            logit = size
    return Footprint(
        channel=channel,
        stream=stream,
        score=0 if attends else score,
        logit=logit,
        loss_rows=ops.loss_rows,
        whole_program=True,
    )


def target(device: jax.Device, ops: FastOps | None, dtype: Dtype, mesh: Mesh | None) -> Target:
    """Return the devices of a run, and what a step keeps in the memory of each."""
    kept, shape = footprint(ops, dtype, device.platform), (mesh.devices.shape if mesh else (1, 1))
    if device.platform == "cpu":
        return Target(device.platform, kept, shape)
    stats = device.memory_stats() or {}  # its limit is the part of the GPU that jax reserves
    return Target(
        device.platform,
        kept,
        shape,
        device.device_kind,
        free=stats.get("bytes_limit"),
        peak_memory=lambda: (device.memory_stats() or {}).get("peak_bytes_in_use"),
    )
