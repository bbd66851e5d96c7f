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
        "torch: the norm is that of this device's part of the gradients",
        "gpt_torch/optimizer.py::global_norm",
        "torch.linalg.vector_norm(g, dim=-1)",
        'torch.linalg.vector_norm(getattr(g, "to_local", lambda: g)(), dim=-1)',
    ),
    Fault(
        "torch: an error leaves Gloo's threads",
        "gpt_torch/parallel.py::DistributedProcesses.__exit__",
        "traceback.clear_frames(details[1])",
        "pass",
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
        "flax: processes do not hear of each other's signals",
        "gpt_flax/parallel.py::DistributedProcesses.max",
        "max((int(told) for _, told in self.client.key_value_dir_get(key)), default=0)",
        "number",
    ),
    Fault(
        "several processes of a host have the whole model each",
        "gpt_common/run.py::_initial_weights",
        "world.local_size == 1",
        "True",
    ),
    Fault(
        "the other processes gather the moments in another order",
        "gpt_common/run.py::Run.save",
        "finite_values(step, tensors)",
        "finite_values(step, tensors if self.processes.world.is_first else tensors[::-1])",
    ),
    Fault(
        "a resumed run reads the windows of the last step again",
        "gpt_common/run.py::Run._read_batches",
        "return batches, self.train_loader.state()",
        "return batches, state",
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
