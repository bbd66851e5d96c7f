"""Which process this is, by each launcher's variables; its rows; the mesh; errors of the first."""

import tracemalloc

import numpy as np
import pytest

from gpt_common.config import DataOptions, ModelOptions, ParallelOptions, TrainConfig
from gpt_common.distributed import Processes, World, find_world, first_node, mesh_shape
from gpt_common.errors import InputError, PeerError
from gpt_common.estimate import Target
from gpt_common.formats.registry import read_weights
from gpt_common.run import initial_checkpoint
from gpt_common.watchdog import Watchdog
from gpt_common.weights import num_parameters
from tests.conftest import TINY, assert_one_line_error
from tests.test_train import entries

TORCHRUN = {
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"MASTER_ADDR": "gpu1", "MASTER_PORT": "4000"},
}
SLURM = {
    **{"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"},
    **{"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": "gpu[007-008]"},
    **{"SLURM_JOB_ID": "120003"},
}
OPEN_MPI = {
    **{"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    **{"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
}


@pytest.mark.parametrize(
    ("environ", "world"),
    [
        ({}, World()),
        (TORCHRUN, World(5, 8, 1, 4, "gpu1", 4000)),
        (SLURM, World(5, 8, 1, 4, "gpu007", 29503)),
        (SLURM | {"MASTER_ADDR": "a", "MASTER_PORT": "7"}, World(5, 8, 1, 4, "a", 7)),
        (OPEN_MPI, World(1, 2, 1, 2, "localhost", 29500)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, World()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, World()),  # in a job, but not by srun
    ],
)
def test_the_world_of_a_launcher(environ, world):
    assert find_world(environ) == world


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (TORCHRUN | {"RANK": "8"}, "torchrun: expected RANK below WORLD_SIZE 8, got 8"),
        (TORCHRUN | {"RANK": "x"}, "torchrun: RANK: expected a whole number, got 'x'"),
        (
            OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "4"},
            "Open MPI: expected the first host's name in MASTER_ADDR, got none",
        ),
    ],
)
def test_variables_that_do_not_fit(environ, message):
    with pytest.raises(InputError) as error:
        find_world(environ)
    assert str(error.value) == message


def test_the_first_host_of_a_list():
    assert [first_node(n) for n in ("a", "a,b", "a[03,07-09],b", "n-1-[2-4]")] == [
        *("a", "a", "a03", "n-1-2")
    ]
    with pytest.raises(InputError, match="expected a list of hosts, got ''"):
        first_node("")


def test_every_row_is_one_process_s():
    rows = [World(rank, 4).rows(12) for rank in range(4)]
    assert [list(r) for r in rows] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def config(rows=8, **options):
    return TrainConfig(data=DataOptions(batch_size=rows), parallel=ParallelOptions(**options))


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, (4, 1)), ({"parallel": "fsdp"}, (1, 4)), ({"mesh": (2, 2)}, (2, 2))],
)
def test_the_mesh(options, shape):
    assert mesh_shape(config(**options), 4) == shape


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mesh": (2, 3)}, "whose product is 4, the number of devices, got 2 3"),
        ({"rows": 6}, "batch_size: expected a multiple of 4, the number of devices, got 6"),
        ({"parallel": "none"}, "parallel: expected ddp or fsdp for 4 processes, got none"),
    ],
)
def test_a_mesh_that_does_not_fit(options, words):
    with pytest.raises(InputError, match=words):
        mesh_shape(config(**options), 4)


class Told(Processes):
    """A process that hears what the first one says."""

    def __init__(self, rank, said=""):
        self.world, self.said = World(rank, 2), said

    def broadcast(self, text):
        self.said = text if self.world.is_first else self.said
        return self.said


def test_what_the_first_process_does():
    calls = []
    assert Told(0).on_first(lambda: 3, lambda: calls.append("others")) == 3
    assert Told(1).on_first(lambda: 3, lambda: calls.append("others")) is None
    assert calls == ["others"]


def test_an_error_of_the_first_process_is_raised_in_all():
    def fail():
        raise InputError("no room")

    calls, first = [], Told(0)
    with pytest.raises(InputError, match="no room"):
        first.on_first(fail, lambda: calls.append("the rest"))
    assert (first.said, calls) == ("no room", ["the rest"])
    with pytest.raises(PeerError, match="no room"):
        Told(1, "no room").on_first(lambda: 3)


def test_no_process_of_several_on_a_host_has_the_whole_model_at_the_start():
    """It computes each weight when it needs it."""
    tiny = TrainConfig(model=ModelOptions(preset="tiny"))
    tracemalloc.start()
    start = initial_checkpoint(tiny, Target("cpu"), read_weights, World(1, 4, 1, 4))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < num_parameters(start.config)  # a quarter of its bytes
    alone = initial_checkpoint(tiny, Target("cpu"), read_weights, World())
    for name, weight in alone.weights.items():
        np.testing.assert_array_equal(start.weights[name], weight)


def test_one_process_has_no_watchdog(tmp_path):
    with Watchdog(World(), tmp_path, timeout=0.001) as watchdog:
        assert not watchdog._thread.is_alive()
    assert not list(tmp_path.iterdir())


def test_resume_auto_starts_and_goes_on(call, framework, tmp_path):
    command = (*TINY, "--checkpoint_every", 2, "--resume", "auto", "--out_dir", tmp_path / "run")
    assert call(f"gpt_{framework}.train", *command, "--steps", 2).returncode == 0
    result = call(f"gpt_{framework}.train", *command, "--steps", 4)
    assert f"resumed {tmp_path / 'run'} after step 2" in result.stdout
    assert list(entries(tmp_path / "run", "loss")) == [0, 1, 2, 3]
    result = call(f"gpt_{framework}.train", *TINY, "--resume", "auto")
    assert_one_line_error(result, "--resume auto: expected the run's folder in --out_dir, got none")


def test_a_run_may_be_resumed_on_other_devices():
    """So the options of the devices are not part of the run."""
    stored = config(mesh=(2, 2)).as_dict()
    assert "parallel" not in stored
    assert TrainConfig.from_dict(stored, "x").parallel == ParallelOptions()
