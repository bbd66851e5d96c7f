"""The devices of a run, and what a training step keeps in their memory."""

import torch
from torch.distributed.device_mesh import DeviceMesh

from gpt_common.config import Dtype, TrainConfig
from gpt_common.dry_run import planned_gpus
from gpt_common.estimate import Footprint, Target
from gpt_common.hardware import Processor
from gpt_torch.fast import FastOps, choose_fast_ops
from gpt_torch.precision import HALF


def footprint(ops: FastOps | None, dtype: Dtype, device_type: str) -> Footprint:
    """Return what a training step keeps without torch.compile, with which it differs (docs/gpu.md).

    Measured with tensors without values (`python -m benchmarks.memory`). A block keeps the residual
    stream twice and 14 numbers in the dtype of matrix products: queries, keys, values and their
    attention 4, the inputs of the linear layers 2, the MLP 8. Attention keeps no scores.
    """
    size = 8 if dtype == "float64" else 4
    width = 2 if dtype in HALF else size
    rows = ops.loss_rows if ops else 0
    # Of whole logits those of the loss and of three steps of its gradient; of rows two copies.
    logit = size + width if rows else 4 * size
    return Footprint(
        channel=2 * size + 14 * width,
        stream=3 * size,
        logit=logit,
        loss_rows=rows,
        cast=width if width < size else 0,  # autocast keeps the weights that it has cast
        frees=True,
    )


def target(
    device: torch.device, ops: FastOps | None, dtype: Dtype, mesh: DeviceMesh | None
) -> Target:
    """Return the devices of a run, and what a step keeps in the memory of each."""
    kept = footprint(ops, dtype, device.type)
    shape = (mesh["data"].size(), mesh["fsdp"].size()) if mesh else (1, 1)
    if device.type != "cuda":
        return Target(device.type, kept, shape)
    return Target(
        device.type,
        kept,
        shape,
        torch.cuda.get_device_name(device),
        free=torch.cuda.mem_get_info(device)[0],
        peak_memory=lambda: torch.cuda.max_memory_allocated(device),
    )


def planned(config: TrainConfig) -> tuple[TrainConfig, str, Target]:
    """Return the options of a dry run, the framework, and the GPUs of `--gpus`, here or not."""
    dtype, mesh, name = planned_gpus(config)
    ops = choose_fast_ops("cuda", dtype, Processor()) if config.runtime.fast_ops else None
    kept = footprint(ops, dtype, "cuda")
    return config.with_dtype(dtype), "torch", Target("cuda", kept, mesh, name)
