"""The devices of a run, and what a training step keeps in their memory."""

import jax
from jax.sharding import Mesh

from gpt_common.config import Dtype, TrainConfig
from gpt_common.dry_run import planned_gpus
from gpt_common.estimate import Footprint, Target
from gpt_common.hardware import Processor
from gpt_flax.fast import BLOCK_ROWS, FastOps, choose_fast_ops
from gpt_flax.precision import HALF


def footprint(ops: FastOps | None, dtype: Dtype, device_type: str) -> Footprint:
    """Return what a training step keeps, unless XLA recomputes it because memory is short.

    Measured with programs that XLA has compiled (`python -m benchmarks.memory`). Besides what the
    torch twin keeps, a block keeps the scores of attention if no fast operation recomputes them.
    """
    size = 8 if dtype == "float64" else 4
    width = 2 if dtype in HALF else size
    ops = ops or FastOps()
    attends = ops.blockwise_attention or ops.cudnn_attention
    if device_type == "cpu":
        return _cpu_footprint(ops, size, width)
    return Footprint(
        channel=2 * size + (17 if width < size else 14) * width,
        stream=3 * size,
        score=0 if attends else size + width,
        logit=size if ops.loss_rows and width == size else size + width,
        loss_rows=ops.loss_rows,
        whole_program=True,
    )


def _cpu_footprint(ops: FastOps, size: int, width: int) -> Footprint:
    """Return what XLA's program for a CPU keeps: it computes the weights' gradients last.

    Forward, a block keeps what it does in torch, and queries, keys and values transposed. Before
    the first weight's gradient it has the inputs of its linear layers (7 numbers), the gradients
    of their outputs (9, those of queries, keys and values twice in half precision) and of the
    norms' (2), and for the norms two more of the residual stream's size. The two of the stream
    itself are there or not, as XLA has ordered the program: half of them is counted. A weight in
    half precision has two copies, one of them transposed; the head has a transposed one in
    float32, too.
    """
    copies = 2 * width if width < size else 0
    if not (ops.blockwise_attention and ops.loss_rows):
        return Footprint(
            channel=2 * size + 20 * size,
            stream=8 * size,
            score=3 * size,
            logit=2 * size if ops.loss_rows else 2 * size + width,
            loss_rows=ops.loss_rows,
            head_copy=copies,
            loop_copy=copies,
            whole_program=True,
        )
    channel = 2 * size + 17 * width
    return Footprint(
        channel=channel,
        stream=8 * size,
        logit=2 * size + (width if width < size else 0),
        loss_rows=ops.loss_rows,
        head_copy=copies or size,
        loop_copy=copies,
        backward_channel=3 * size + (21 if width < size else 18) * width - channel,
        block_scores=(3 * size, size + width),
        block_rows=BLOCK_ROWS,
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


def planned(config: TrainConfig) -> tuple[TrainConfig, str, Target]:
    """Return the options of a dry run, the framework, and the GPUs of `--gpus`, here or not."""
    dtype, mesh, name = planned_gpus(config)
    ops = choose_fast_ops("gpu", dtype, Processor()) if config.runtime.fast_ops else None
    kept = footprint(ops, dtype, "gpu")
    return config.with_dtype(dtype), "flax", Target("gpu", kept, mesh, name)
