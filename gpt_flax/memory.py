"""The devices of a run, and what a training step keeps in their memory."""

import jax
from jax.sharding import Mesh

from gpt_common.config import Dtype
from gpt_common.estimate import Footprint, Target
from gpt_flax.fast import FastOps


def footprint(ops: FastOps | None, dtype: Dtype, device_type: str) -> Footprint:
    """Return what a training step keeps, unless XLA recomputes it because memory is short.

    Measured with programs that XLA has compiled (`python -m benchmarks.memory`). Besides what the
    torch twin keeps, a block keeps the scores of attention if no fast operation recomputes them.
    """
    size = 8 if dtype == "float64" else 4
    on_cpu, bfloat16 = device_type == "cpu", dtype == "bfloat16"
    rows = ops.loss_rows if ops else 0
    width = 2 if bfloat16 and (ops or not on_cpu) else size
    numbers = 20 if on_cpu else (17 if bfloat16 else 14)  # in the dtype of matrix products
    attends = ops is not None and (ops.blockwise_attention or ops.cudnn_attention)
    if on_cpu:
        score, logit = 3 * size, 2 * size if rows else 2.9 * size
    else:
        score = logit = size + width
        logit = size if rows and not bfloat16 else logit
    return Footprint(
        channel=2 * size + numbers * width,
        stream=(8 if on_cpu else 3) * size,
        score=0 if attends else score,
        logit=logit,
        loss_rows=rows,
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
