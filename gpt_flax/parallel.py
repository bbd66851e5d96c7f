"""Training on several devices: shardings of the arrays that all processes have together."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax._src import distributed  # whose client has no public name; Orbax uses it, too
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gpt_common.config import TrainConfig
from gpt_common.distributed import Processes, World, mesh_shape

Sharding = NamedSharding | None  # None: the default device
SHUTDOWN_SECONDS = 30  # that a process which ends waits for the others
ROWS = PartitionSpec(None, ("data", "fsdp"))  # of batches (A, B, T): the rows over all devices


class DistributedProcesses(Processes):
    """The processes that a launcher has started, connected with each other."""

    def __init__(self, world: World, timeout: float) -> None:
        self.world, self.calls = world, 0
        # Its handler would take SIGTERM from the run, which saves and agrees with the others.
        jax.config.update("jax_enable_preemption_service", False)
        self.milliseconds = math.ceil(2000 * timeout)  # the watchdog ends a run sooner
        jax.distributed.initialize(
            f"{world.address}:{world.port + 1}",  # torchrun's own store may listen at the port
            world.size,
            world.rank,
            local_device_ids=own_devices(world),
            initialization_timeout=math.ceil(timeout),
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
        self.client: Any = distributed.global_state.client

    def __exit__(self, kind: object, *details: object) -> None:
        """Disconnect, unless this process fails and the others go on to wait for it."""
        if kind is None:
            jax.distributed.shutdown()

    def broadcast(self, text: str) -> str:
        """Return the text of the first process."""
        data = text.encode()
        length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
        padded = np.frombuffer(data.ljust(length, b"\0")[:length], np.uint8)
        return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes().decode()

    def max(self, number: int) -> int:
        """Return the largest number of all processes, none below 0.

        Those other than 0 go by way of the coordinator: a collective of the devices, as in `sum`,
        would wait for the step that they compute.
        """
        self.calls += 1
        key = f"max/{self.calls}/"
        if number:
            self.client.key_value_set(f"{key}{self.world.rank}", str(number))
        self.client.wait_at_barrier("max", self.milliseconds)
        return max((int(told) for _, told in self.client.key_value_dir_get(key)), default=0)

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Return the sums of the numbers over all processes."""
        gathered = multihost_utils.process_allgather(np.array(numbers, np.int32))
        return [int(number) for number in np.sum(gathered, axis=0)]


def own_devices(world: World) -> list[int] | None:
    """Return the GPU of this process, or None for all that it sees.

    It sees one alone if the launcher says so in CUDA_VISIBLE_DEVICES.
    """
    alone = len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")) == 1
    return None if alone or world.local_size == 1 else [world.local_rank]


def start_processes(world: World, timeout: float) -> Processes:
    """Return the processes of a run, connected; call it before any other use of jax."""
    return Processes() if world.size == 1 else DistributedProcesses(world, timeout)


def make_mesh(config: TrainConfig, device: jax.Device) -> Mesh | None:
    """Return the mesh of all devices of all processes, with axes `data` and `fsdp`; None for one.

    Raises `InputError` if the options do not fit the number of devices.
    """
    devices = jax.devices(device.platform)
    if config.parallel.parallel == "none" and jax.process_count() == 1:
        devices = [device]
    shape = mesh_shape(config, len(devices))
    if len(devices) == 1:
        return None
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def sharding_of(shape: Sequence[int], mesh: Mesh | None) -> Sharding:
    """Return how an array of the state is divided: the largest axis that can be, along `fsdp`."""
    if mesh is None:
        return None
    parts = mesh.shape["fsdp"]
    divisible = [axis for axis, size in enumerate(shape) if size % parts == 0]
    divided = max(divisible, key=lambda axis: shape[axis], default=None) if parts > 1 else None
    spec = PartitionSpec(*("fsdp" if axis == divided else None for axis in range(len(shape))))
    return NamedSharding(mesh, spec)


def shard_state(tree: Any, mesh: Mesh | None) -> Any:
    """Return the shardings of a tree of arrays, or of their shapes."""
    return jax.tree.map(lambda a: sharding_of(a.shape, mesh), tree)


def divide(array: np.ndarray, dtype: Any, mesh: Mesh | None) -> Array:
    """Return an array of the state, of which each device has its part.

    Nothing is sent: each process has read the whole array. It is a copy, as a step donates its
    buffers.
    """
    sharding = sharding_of(array.shape, mesh)
    if sharding is None:
        return jnp.array(array, dtype)
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: np.array(array[index], dtype)
    )


def join_rows(rows: np.ndarray, mesh: Mesh | None) -> Array | np.ndarray:
    """Return the batches of all processes, `(A, B, T)` or `(B, T)`, from this process's rows."""
    if mesh is None:
        return rows
    spec = ROWS if rows.ndim == 3 else PartitionSpec(*ROWS[1:])
    return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), rows)


def divide_rows(loss: Callable[..., Array], mesh: Mesh | None) -> Callable[..., Array]:
    """Return a mean loss of rows, weight and targets that each device computes of its own rows.

    Else a loss that goes by chunks of rows would have each chunk computed by all devices.
    """
    if mesh is None:
        return loss

    def mean_loss(x: Array, weight: Array, targets: Array) -> Array:
        weight = jax.lax.pcast(
            weight, mesh.axis_names, to="varying"
        )  # its gradient is the sum of all devices'
        return jax.lax.pmean(loss(x, weight, targets), mesh.axis_names)

    rows = PartitionSpec(mesh.axis_names)
    specs = (rows, PartitionSpec(), rows)
    return jax.shard_map(mean_loss, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())


def to_host(array: Array) -> np.ndarray:
    """Return the whole array on the host; all processes call it."""
    if not isinstance(array, Array) or array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def gathered(params: Any, mesh: Mesh | None) -> Any:
    """Return the parameters, each whole on a device of this process, for generation."""
    return params if mesh is None else jax.tree.map(lambda a: jnp.asarray(to_host(a)), params)
