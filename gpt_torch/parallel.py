"""Training on several devices: hooks on the modules of a model that each process has."""

import gc
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from gpt_common.config import TrainConfig
from gpt_common.distributed import Processes, World, mesh_shape
from gpt_torch.model import GPT

BACKENDS = {"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo"}


class DistributedProcesses(Processes):
    """The processes that a launcher has started, connected with each other."""

    def __init__(self, world: World, device: torch.device, timeout: float) -> None:
        self.world = world
        if device.type == "cuda":
            torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
        # torch reads them itself: under torchrun its launcher may be the one that listens there.
        os.environ.setdefault("MASTER_ADDR", world.address)
        os.environ.setdefault("MASTER_PORT", str(world.port))
        dist.init_process_group(
            BACKENDS[device.type],
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=2 * timeout),  # the watchdog ends a run sooner, and says why
        )

    def __exit__(self, kind: object, *details: Any) -> None:
        """Disconnect; after an error only from Gloo, as NCCL may wait for the other processes.

        Gloo's threads end with the last reference to it: an error's frames have a mesh, which has
        one. A thread that frees a tensor after Python aborts the process (pytorch/pytorch#179291).
        """
        if kind is not None and dist.get_backend() != "gloo":
            return
        traceback.clear_frames(details[1])
        dist.destroy_process_group()
        gc.collect()

    def broadcast(self, text: str) -> str:
        """Return the text of the first process."""
        texts: list[str] = [text]
        dist.broadcast_object_list(texts, device=torch.device("cpu"))
        return texts[0]

    def max(self, number: int) -> int:
        """Return the largest number of all processes, none below 0."""
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Return the sums of the numbers over all processes."""
        total = torch.tensor(numbers)
        dist.all_reduce(total)
        return [int(number) for number in total]


def start_processes(world: World, device: torch.device, timeout: float) -> Processes:
    """Return the processes of a run, connected; call it before any other function here."""
    return Processes() if world.size == 1 else DistributedProcesses(world, device, timeout)


def make_mesh(config: TrainConfig, device: torch.device) -> DeviceMesh | None:
    """Return the mesh of all devices, one a process, with axes `data` and `fsdp`; None for one.

    Raises `InputError` if the options do not fit the number of devices.
    """
    devices = dist.get_world_size() if dist.is_initialized() else 1
    shape = mesh_shape(config, devices)
    if devices == 1:
        return None
    return init_device_mesh(device.type, shape, mesh_dim_names=("data", "fsdp"))


class Loss(nn.Module):
    """The loss as a forward pass, the only one for which DistributedDataParallel sums gradients."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model, self.loss = model, model.loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross-entropy of this process's rows."""
        return self.loss(x, y)


def shard_model(model: GPT, mesh: DeviceMesh | None) -> None:
    """Let each device of the axis `fsdp` have a part of the parameters.

    FSDP2 (`fully_shard`; Zhao et al. 2023, arXiv:2304.11277) gathers a block's parameters for its
    forward and its backward pass; the embeddings and the last norm are one group. Both axes at once
    are its hybrid form. The weights of a model on the device `meta` are loaded after it.
    """
    if mesh is None or mesh["fsdp"].size() == 1:
        return
    from torch.distributed.fsdp import fully_shard

    mesh = mesh if mesh["data"].size() > 1 else mesh["fsdp"]
    for block in model.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(part: nn.Module | Tensor) -> bool:
    """Whether a model, or a tensor, is divided among devices.

    By its methods: to import FSDP2's classes takes half a second, also of a run on one device.
    """
    return hasattr(part, "unshard") or hasattr(part, "full_tensor")


def sum_gradients(model: GPT, mesh: DeviceMesh | None) -> None:
    """Let the devices average the gradients of `model.loss`; call it when the loss is final."""
    if is_sharded(model):
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(model, "loss")
    elif mesh is not None:
        replicas = DistributedDataParallel(Loss(model), gradient_as_bucket_view=True)
        model.loss = replicas.__call__  # type: ignore[method-assign]


def set_gradient_sync(model: GPT, sync: bool) -> None:
    """Set whether the next backward pass averages the gradients: that of an update's last batch."""
    replicas = getattr(model.loss, "__self__", None)
    if is_sharded(model):
        cast(Any, model).set_requires_gradient_sync(sync)
    elif isinstance(replicas, DistributedDataParallel):
        replicas.require_backward_grad_sync = sync


def divide(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this device's part of a tensor, if a tensor `like` it is divided; else the tensor."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    how = cast(DTensor, like)
    # Nothing is sent: each process has read the whole tensor.
    return distribute_tensor(tensor, how.device_mesh, how.placements, src_data_rank=None)


def to_host(tensor: Tensor) -> np.ndarray:
    """Return the whole tensor on the host; all processes call it."""
    return whole(tensor).detach().cpu().numpy()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that the devices have together as a plain one; all processes call it."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def mean(number: Tensor) -> Tensor:
    """Return the mean of a number over all processes."""
    if not dist.is_initialized():
        return number
    dist.all_reduce(number)
    return number / dist.get_world_size()


def reshard(model: GPT) -> None:
    """Free the parameters that an evaluation has gathered: the optimizer knows the parts only."""
    if is_sharded(model):
        cast(Any, model).reshard()


@contextmanager
def gathered(model: GPT) -> Iterator[GPT]:
    """Yield a model whose other methods than `loss` work, too; all processes call the same ones."""
    if is_sharded(model):
        cast(Any, model).unshard()
    yield model
    reshard(model)
