"""The processes of a run: which one this is, its rows of a batch, and what the first one does."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gpt_common.config import TrainConfig
from gpt_common.errors import InputError, PeerError

T = TypeVar("T")

DEFAULT_PORT = 29500  # torchrun's
# The variables of launchers: rank, number of processes, and both on this host.
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "Open MPI": (
        *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    "SLURM": (
        *("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        *("SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ),
}


@dataclass(frozen=True)
class World:
    """The processes of a run. `rank` is this one's; `local_rank` and `local_size` are its host's.

    `address` and `port` are of the first process, through which the others find each other.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = "localhost"
    port: int = DEFAULT_PORT

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def rows(self, batch_size: int) -> range:
        """Return the rows of a batch that this process computes; `check_rows` has checked it."""
        count = batch_size // self.size
        return range(self.rank * count, (self.rank + 1) * count)


def find_world(environ: Mapping[str, str] = os.environ) -> World:
    """Return the processes that torchrun, SLURM's srun or Open MPI's mpirun has started.

    MASTER_ADDR and MASTER_PORT name the first one; SLURM and a single host do without. One process
    if there is no launcher. Raises `InputError` for numbers that do not fit together.
    """
    found = [name for name, names in LAUNCHERS.items() if environ.keys() >= set(names[:2])]
    if not found:
        return World()
    launcher, names = found[0], LAUNCHERS[found[0]]
    rank, size, local_rank, local_size = (_number(environ, name, launcher) for name in names)
    if not 0 <= rank < size:
        raise InputError(f"{launcher}: expected {names[0]} below {names[1]} {size}, got {rank}")
    if size == 1:
        return World()
    port = _number(environ, "MASTER_PORT", launcher) or _job_port(environ)
    return World(rank, size, local_rank, local_size, _address(environ, launcher), port)


def _number(environ: Mapping[str, str], name: str, launcher: str) -> int:
    value = environ.get(name, "0")
    match = re.match(r"\d+", value)  # SLURM has 4(x2) for two hosts of 4 processes each
    if match is None:
        raise InputError(f"{launcher}: {name}: expected a whole number, got {value!r}")
    return int(match[0])


def _address(environ: Mapping[str, str], launcher: str) -> str:
    if address := environ.get("MASTER_ADDR"):
        return address
    if launcher == "SLURM" and (nodes := environ.get("SLURM_STEP_NODELIST")):
        return first_node(nodes)
    if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == environ.get("OMPI_COMM_WORLD_SIZE"):
        return World.address
    raise InputError(f"{launcher}: expected the first host's name in MASTER_ADDR, got none")


def _job_port(environ: Mapping[str, str]) -> int:
    """Return a port that two jobs on a host are unlikely to share."""
    return DEFAULT_PORT + int(environ.get("SLURM_JOB_ID", "0")) % 10000


def first_node(nodes: str) -> str:
    """Return the first host of SLURM's list, such as `gpu[007-009,12],login`: `gpu007`."""
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    if match is None:
        raise InputError(f"SLURM: expected a list of hosts, got {nodes!r}")
    return match[1] + (match[2] or "")


class Processes:
    """What the processes of a run tell each other; this one is alone.

    The `parallel.py` of each twin has those of several. All processes make the same calls, in the
    same order. The context manager is for the time in which they are connected.
    """

    world = World()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        """Disconnect, as far as the other processes let it after an error."""

    def broadcast(self, text: str) -> str:
        """Return the text of the first process."""
        return text

    def max(self, number: int) -> int:
        """Return the largest number of all processes, none below 0."""
        return number

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Return the sums of the numbers over all processes."""
        return list(numbers)

    def on_first(
        self, action: Callable[[], T], others: Callable[[], object] = lambda: None
    ) -> T | None:
        """Call `action` in the first process only; return its result there, else None.

        The other processes call `others`, and so does the first one if `action` fails: it may share
        in what `action` does. All processes raise an `InputError` or `OSError` of the first.
        """
        error: InputError | OSError | None = None
        result = None
        if self.world.is_first:
            try:
                result = action()
            except (InputError, OSError) as raised:
                error = raised
        if error or not self.world.is_first:
            others()
        message = self.broadcast(str(error) if error else "")
        if error:
            raise error
        if message:
            raise PeerError(message)
        return result


def mesh_shape(config: TrainConfig, devices: int) -> tuple[int, int]:
    """Return the sizes of the axes `data` and `fsdp` of the mesh of all devices.

    Along `data` each device has the same parameters, along `fsdp` each a part of them. Raises
    `InputError` if the options do not fit the number of devices.
    """
    options, rows = config.parallel, config.data.batch_size
    if options.parallel == "none" and devices > 1:
        raise InputError(f"parallel: expected ddp or fsdp for {devices} processes, got none")
    if options.mesh and math.prod(options.mesh) != devices:
        raise InputError(
            f"mesh: expected two sizes whose product is {devices}, the number of devices, "
            f"got {options.mesh[0]} {options.mesh[1]}"
        )
    if rows % devices:
        raise InputError(
            f"batch_size: expected a multiple of {devices}, the number of devices, got {rows}"
        )
    return options.mesh or ((1, devices) if options.parallel == "fsdp" else (devices, 1))
