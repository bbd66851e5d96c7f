"""Faults of training on several processes and devices."""

from tests.faults.fault import Fault

FAULTS = (
    Fault(
        "torch: gradients are not averaged",
        "gpt_torch/parallel.py::sum_gradients",
        "mesh is not None",
        "False",
    ),
    Fault(
        "torch: gradients are averaged after an update's first batch",
        "gpt_torch/train.py::train_step",
        "number == len(x)",
        "number == 1",
    ),
    Fault(
        "torch: an evaluation leaves gathered parameters, which the optimizer does not know",
        "gpt_torch/parallel.py::reshard",
        "is_sharded(model)",
        "False",
    ),
    Fault(
        "torch: the loss of a log is the first process's own",
        "gpt_torch/parallel.py::mean",
        "not dist.is_initialized()",
        "True",
    ),
    Fault(
        "torch: only this device's part of a weight is saved",
        "gpt_torch/parallel.py::whole",
        "cast(Any, tensor).full_tensor()",
        "cast(Any, tensor).to_local()",
    ),
    Fault(
        "flax: arrays along fsdp are not divided",
        "gpt_flax/parallel.py::sharding_of",
        "parts > 1",
        "False",
    ),
    Fault(
        "flax: the batches of all processes are the first one's rows",
        "gpt_flax/parallel.py::join_rows",
        "jax.make_array_from_process_local_data(NamedSharding(mesh, spec), rows)",
        "rows",
    ),
    Fault(
        "two processes read each other's rows",
        "gpt_common/distributed.py::World.rows",
        "range(self.rank * count, (self.rank + 1) * count)",
        "range((self.rank ^ 1) * count, ((self.rank ^ 1) + 1) * count)",
    ),
    Fault(
        "an error of the first process leaves the others waiting",
        "gpt_common/distributed.py::Processes.on_first",
        "error or not self.world.is_first",
        "not self.world.is_first",
    ),
    Fault(
        "a signal stops one process alone",
        "gpt_common/run.py::Run.stopped",
        "self.processes.max(self.signals.number or pipe_closed)",
        "self.signals.number or pipe_closed",
    ),
    Fault(
        "a process that hangs is waited for",
        "gpt_common/watchdog.py::Watchdog._watch",
        "time.monotonic() - self._last > self._timeout",
        "False",
    ),
    Fault(
        "the options of the devices are those of the run that is resumed",
        "gpt_common/resume.py::changes",
        'group != "parallel"',
        "True",
    ),
    Fault(
        "--resume auto never finds a run",
        "gpt_common/resume.py::run_to_resume",
        "run_checkpoints(Path(output.out_dir))",
        "False",
    ),
)
