"""Faults of runs: their folder, lock, log and memory."""

from tests.faults.fault import Fault

FAULTS = (
    # The run.
    Fault(
        "a resumed run starts at the first batch",
        "gpt_common/resume.py::restore_position",
        "loader.restore(training.loader)",
        "pass",
    ),
    Fault(
        "a resumed run does one step twice",
        "gpt_common/run.py::Run.first_step",
        "self.start.training.step",
        "self.start.training.step - 1",
    ),
    Fault(
        "the batch to over-fit moves on",
        "gpt_common/run.py::Run._read_batches",
        "self.train_loader.restore(state)",
        "pass",
    ),
    Fault(
        "a checkpoint has the position of what is read ahead",
        "gpt_common/run.py::Run._training_state",
        "self.loader_state",
        "self.train_loader.state()",
    ),
    Fault(
        "the thread that reads ahead outlives the run",
        "gpt_common/run.py::Run.__exit__",
        "self.prefetcher.close()",
        "pass",
    ),
    Fault(
        "--shuffle does nothing",
        "gpt_common/run.py::_open_run",
        "config.runtime.seed if config.data.shuffle else None",
        "None",
    ),
    Fault(
        "samples in training do not depend on --seed",
        "gpt_common/run.py::Run.samples",
        "SamplingOptions(seed=self.config.runtime.seed)",
        "SamplingOptions()",
    ),
    Fault(
        "a run forgets how far AdamW's count is off its own",
        "gpt_common/run.py::Run.save",
        "partial(self._write, folder, step, *streamed, optimizer_step, loss_scale)",
        "partial(self._write, folder, step, *streamed, step, loss_scale)",
    ),
    Fault(
        "a run forgets what the file it came from says",
        "gpt_common/run.py::Run._training_state",
        "start.source if start else {}",
        "{}",
    ),
    Fault(
        "the trainer does not say what it leaves out",
        "gpt_common/run.py::_print_summary",
        "run.start.notes",
        "()",
    ),
    Fault(
        "resume: how the data is split may not change with it",
        "gpt_common/resume.py::RESUME_OVERRIDES",
        '"val_fraction"',
        '"data"',
    ),
    Fault(
        "a run that is resumed takes no lock",
        "gpt_common/run.py::start_run",
        "lock_resumed(config.output)",
        "None",
    ),
    Fault(
        "two runs of one second have one folder",
        "gpt_common/run_folder.py::make_folder",
        "folder.mkdir(parents=True)",
        "folder.mkdir(parents=True, exist_ok=True)",
    ),
    Fault(
        "a resumed run enters the folder of another",
        "gpt_common/run_folder.py::lock_new_run",
        "(folder / LATEST).exists() or run_checkpoints(folder)",
        "output.resume is None and run_checkpoints(folder)",
    ),
    Fault(
        "a checkpoint of no run goes on in its parent",
        "gpt_common/resume.py::stored_config",
        "str(folder.parent) if in_run else None",
        "str(folder.parent)",
    ),
    Fault(
        "weights are saved that are not finite",
        "gpt_common/run.py::finite_values",
        "np.isfinite(array.min()) and np.isfinite(array.max())",
        "True",
    ),
    Fault(
        "a checkpoint may be written before the losses are read",
        "gpt_common/run.py::Run.save",
        "self.log.flush()",
        "pass",
    ),
    Fault(
        "the last proven checkpoint goes with the save of the next",
        "gpt_common/run.py::Run._write",
        "self._remove_older(folder, at_least=2)",
        "self._remove_older(folder, at_least=1)",
    ),
    Fault(
        "a run is resumed on other data without a word",
        "gpt_common/resume.py::check_data",
        "found != expected",
        "False",
    ),
    Fault(
        "--data beside --resume is not taken for other data",
        "gpt_common/resume.py::_parse_over",
        "dataclasses.replace(config.output, new_data=True)",
        "config.output",
    ),
    Fault(
        "other data is taken for good once it was given",
        "gpt_common/resume.py::stored_config",
        "dataclasses.replace(config.output, out_dir=out_dir, resume=path, new_data=False)",
        "dataclasses.replace(config.output, out_dir=out_dir, resume=path)",
    ),
    Fault(
        "a run goes on without a reader",
        "gpt_common/run.py::Run.stopped",
        "signal.SIGPIPE if self.log.pipe_closed else 0",
        "0",
    ),
    Fault(
        "flax on a GPU reads each loss at once",
        "gpt_common/run.py::_open_run",
        'target.kind != "cpu"',
        'target.kind == "cuda"',
    ),
    Fault(
        "tokens a step forget grad_accum",
        "gpt_common/run.py::Run.tokens_per_step",
        "data.batch_size * data.seq_len * self.config.grad_accum",
        "data.batch_size * data.seq_len",
    ),
    Fault(
        "a resumed run may not go on with other data",
        "gpt_common/resume.py::RESUME_OVERRIDES",
        '"data"',
        '"steps"',
    ),
    Fault(
        "a resumed run may change its batch",
        "gpt_common/resume.py::RESUME_OVERRIDES",
        "(field.name for field in dataclasses.fields(OutputOptions))",
        '("batch_size", *(field.name for field in dataclasses.fields(OutputOptions)))',
    ),
    Fault(
        "--eval_every 0 evaluates at the end",
        "gpt_common/run.py::has_validation",
        "config.output.eval_every > 0 and config.data.val_fraction > 0",
        "config.data.val_fraction > 0",
    ),
    Fault(
        "a resumed run does not know which checkpoint is to prove itself",
        "gpt_common/run.py::_open_run",
        "step_folder(folder, run.first_step).is_dir()",
        "False",
    ),
    Fault(
        "a checkpoint does not say which twin has made it",
        "gpt_common/run.py::Run._training_state",
        'versions() | {"framework": self.framework}',
        "versions()",
    ),
    Fault(
        "moments are saved that are not finite",
        "gpt_common/run.py::finite_values",
        "np.isfinite(array.min()) and np.isfinite(array.max())",
        "weights is not tensors[0] or (np.isfinite(array.min()) and np.isfinite(array.max()))",
    ),
    Fault(
        "minus infinity is saved",
        "gpt_common/run.py::finite_values",
        "np.isfinite(array.min()) and np.isfinite(array.max())",
        "np.isfinite(array.max())",
    ),
    Fault(
        "infinity is saved",
        "gpt_common/run.py::finite_values",
        "np.isfinite(array.min()) and np.isfinite(array.max())",
        "np.isfinite(array.min())",
    ),
    Fault(
        "what a killed process left stays in the folder of a run",
        "gpt_common/run.py::open_folder",
        "clean_folder(lock.folder)",
        "pass",
    ),
    Fault(
        "the first line says that nothing is left to validate",
        "gpt_common/run.py::_print_summary",
        'f", {len(run.val_loader.tokens):,} to validate"',
        'f", 0 to validate"',
    ),
    Fault(
        "the first line counts the tokens to validate as those to train on",
        "gpt_common/run.py::_print_summary",
        "run.train_loader.tokens",
        "run.val_loader.tokens if run.val_loader else run.train_loader.tokens",
    ),
    Fault(
        "the first line says a width for the parameters",
        "gpt_common/run.py::_print_summary",
        "num_parameters(run.start.config)",
        "run.start.config.n_embd",
    ),
    Fault(
        "a run starts from the same weights whatever its seed",
        "gpt_common/run.py::initial_checkpoint",
        "config.runtime.seed",
        "1337",
    ),
    Fault(
        "a GPU's activations count as main memory",
        "gpt_common/run.py::check_memory",
        'target.kind != "cpu"',
        "False",
    ),
    Fault(
        "a GPU's memory is not asked for",
        "gpt_common/run.py::check_memory",
        'require_free(needed, target.free, "training", MEMORY_OPTIONS)',
        "pass",
    ),
    Fault(
        "memory is asked for only where a model is new",
        "gpt_common/run.py::initial_checkpoint",
        "check_memory(checkpoint.config, config, target)",
        "pass",
    ),
    Fault(
        "the folder of a run is another one by its relative name",
        "gpt_common/resume.py::lock_resumed",
        "folder.resolve()",
        "folder",
    ),
    Fault(
        "a run whose checkpoints are damaged is overwritten",
        "gpt_common/run_folder.py::lock_new_run",
        "(folder / LATEST).exists() or run_checkpoints(folder)",
        "run_checkpoints(folder)",
    ),
    Fault(
        "a third log replaces the second",
        "gpt_common/run_folder.py::lock_new_run",
        "(name for name in names if not name.exists())",
        "names",
    ),
    Fault(
        "what is no option is said to have changed",
        "gpt_common/resume.py::changes",
        'value != getattr(getattr(after, group), name) and name != "new_data"',
        "value != getattr(getattr(after, group), name)",
    ),
    Fault(
        "samples in training are as long as the model",
        "gpt_common/run.py::Run.samples",
        "min(DEFAULT_LENGTH, model.block_size)",
        "model.block_size",
    ),
    # The lock.
    Fault(
        "a run's folder is locked for readers only",
        "gpt_common/lock.py::_open_locked",
        "fcntl.LOCK_EX",
        "fcntl.LOCK_SH",
    ),
    Fault(
        "a lock that was removed meanwhile is one",
        "gpt_common/lock.py::_open_locked",
        "_is_same_file(descriptor, path)",
        "True",
    ),
    Fault(
        "a file system without locks has no runs",
        "gpt_common/lock.py::_open_locked",
        "error.errno not in UNSUPPORTED",
        "True",
    ),
    Fault(
        "a lock that fails is one",
        "gpt_common/lock.py::_open_locked",
        "error.errno not in UNSUPPORTED",
        "False",
    ),
    Fault(
        "a fork takes the lock along",
        "gpt_common/lock.py::_release",
        "os.getpid() == owner",
        "True",
    ),
    Fault(
        "a lock names who held it before",
        "gpt_common/lock.py::FolderLock.__init__",
        "os.ftruncate(descriptor, 0)",
        "pass",
    ),
    # The log and the console.
    Fault(
        "a step's line wraps at 80 columns",
        "gpt_common/metrics.py::step_line",
        """
        (
            f"step {step:5d} | loss {loss:9.6f} | norm {grad_norm:6.3f} | lr {learning_rate:.1e} | "
            f"{tokens_per_second:,.0f} tok/s | eta {rounded_time(eta)}"
        )
        """,
        """
        (
            f"step {step:5d} | loss {loss:9.6f} | norm {grad_norm:8.5f} | lr {learning_rate:.1e} | "
            f"{tokens_per_second:,.0f} tok/s | eta {rounded_time(eta)}"
        )
        """,
    ),
    Fault(
        "a validation loss that is not finite does not stop a run",
        "gpt_common/metrics.py::RunLog.evaluation",
        "not math.isfinite(loss)",
        "False",
    ),
    Fault(
        "a step's time has the time of a save in it",
        "gpt_common/metrics.py::RunLog.saved",
        "self._last_time = time.perf_counter()",
        "pass",
    ),
    Fault(
        "a step's time has the time of samples in it",
        "gpt_common/metrics.py::RunLog.samples",
        "self._last_time = time.perf_counter()",
        "pass",
    ),
    Fault(
        "a step's time has the time of an evaluation in it",
        "gpt_common/metrics.py::RunLog.evaluation",
        "self._last_time = time.perf_counter()",
        "pass",
    ),
    Fault(
        "log entries stay in a buffer",
        "gpt_common/metrics.py::RunLog._write",
        "self._file.flush()",
        "pass",
    ),
    Fault(
        "a bad line of a log takes those after it along",
        "gpt_common/metrics.py::read_log",
        "[entry for line in lines if (entry := _parse_entry(line)) is not None]",
        "list(iter(map(_parse_entry, lines).__next__, None))",
    ),
    Fault(
        "the console shows the loss as the norm",
        "gpt_common/metrics.py::step_line",
        """
        (
            f"step {step:5d} | loss {loss:9.6f} | norm {grad_norm:6.3f} | lr {learning_rate:.1e} | "
            f"{tokens_per_second:,.0f} tok/s | eta {rounded_time(eta)}"
        )
        """,
        """
        (
            f"step {step:5d} | loss {loss:9.6f} | norm {loss:6.3f} | lr {learning_rate:.1e} | "
            f"{tokens_per_second:,.0f} tok/s | eta {rounded_time(eta)}"
        )
        """,
    ),
    Fault(
        "the console shows the time left in the wrong unit",
        "gpt_common/metrics.py::step_line",
        """
        (
            f"step {step:5d} | loss {loss:9.6f} | norm {grad_norm:6.3f} | lr {learning_rate:.1e} | "
            f"{tokens_per_second:,.0f} tok/s | eta {rounded_time(eta)}"
        )
        """,
        """
        (
            f"step {step:5d} | loss {loss:9.6f} | norm {grad_norm:6.3f} | lr {learning_rate:.1e} | "
            f"{tokens_per_second:,.0f} tok/s | eta {rounded_time(60 * eta)}"
        )
        """,
    ),
    Fault(
        "the console shows the norm as the learning rate",
        "gpt_common/metrics.py::step_line",
        """
        (
            f"step {step:5d} | loss {loss:9.6f} | norm {grad_norm:6.3f} | lr {learning_rate:.1e} | "
            f"{tokens_per_second:,.0f} tok/s | eta {rounded_time(eta)}"
        )
        """,
        """
        (
            f"step {step:5d} | loss {loss:9.6f} | norm {grad_norm:6.3f} | lr {grad_norm:.1e} | "
            f"{tokens_per_second:,.0f} tok/s | eta {rounded_time(eta)}"
        )
        """,
    ),
    Fault(
        "the bar of a resumed run begins at its first step",
        "gpt_common/metrics.py::RunLog.__init__",
        'self._progress.add_task("", completed=first_step, total=steps)',
        'self._progress.add_task("", completed=0, total=steps)',
    ),
    Fault(
        "the time left counts the first step, which compiles",
        "gpt_common/metrics.py::RunLog._eta",
        "(ended - first_ended) / (step - first)",
        "ended / (step + 1)",
    ),
    Fault(
        "MFU is upside down",
        "gpt_common/metrics.py::RunLog._gpu_figures",
        "self._seconds_at_peak / seconds",
        "seconds / self._seconds_at_peak",
    ),
    # Recipes.
    Fault(
        "a recipe's tokens count where batches are given",
        "gpt_common/recipes.py::recipe_defaults",
        "replace(optimizer, total_batch_tokens=None)",
        "optimizer",
    ),
    Fault(
        "a recipe overrides flags",
        "gpt_common/resume.py::parse_train_config",
        "cli.parse(TrainConfig, command, args, default=defaults)",
        "defaults",
    ),
    Fault(
        "a part of a batch is forgotten",
        "gpt_common/config.py::TrainConfig.grad_accum",
        "total % (data.batch_size * data.seq_len)",
        "False",
    ),
    # Trackers.
    Fault(
        "an error of a tracker ends the run",
        "gpt_common/trackers.py::Trackers._dropped_by_an_error",
        'cli.print_notes([f"{name} gets nothing any more: {reason(error)}"])',
        "raise",
    ),
    Fault(
        "a tracker that fails is tried again",
        "gpt_common/trackers.py::Trackers._dropped_by_an_error",
        "self._started.pop(name, None)",
        "pass",
    ),
    Fault(
        "every process logs to the trackers",
        "gpt_common/metrics.py::RunLog.__enter__",
        """
        if self._path:
            self._file = _open_log(self._path, self._first_step)
            self._trackers.start()
        """,
        """
        self._trackers.start()
        if self._path:
            self._file = _open_log(self._path, self._first_step)
        """,
    ),
    Fault(
        "a missing tracker is found out in the run",
        "gpt_common/run.py::start_run",
        "require_packages(config.output)",
        "pass",
    ),
    # Memory.
    Fault(
        "moments do not count as memory",
        "gpt_common/estimate.py::estimate_step",
        "2 * size * weights / mesh[1]",
        "0 * size * weights / mesh[1]",
    ),
    Fault(
        "memory is asked for as of float32",
        "gpt_common/estimate.py::estimate_step",
        '8 if config.runtime.dtype == "float64" else 4',
        "4",
    ),
    Fault(
        "each device has the whole batch",
        "gpt_common/estimate.py::_instants",
        "config.data.batch_size / target.devices",
        "config.data.batch_size / 1",
    ),
    Fault(
        "rows of logits count as all logits",
        "gpt_common/estimate.py::_loss_bytes",
        "min(tokens, rows)",
        "tokens",
    ),
    Fault(
        "gradients are sent to all at once, not in a ring",
        "gpt_common/estimate.py::_shares_sent",
        "2 * sums * (data - 1) / data / fsdp",
        "2 * sums * (data - 1) / fsdp",
    ),
    Fault(
        "the scores of XLA's attention do not count",
        "gpt_flax/memory.py::footprint",
        "0 if attends else size + width",
        "0",
    ),
    Fault(
        "what waits for the gradients of weights does not count",
        "gpt_common/estimate.py::_instants",
        "activations + late + max(0.0, scores - 2 * head)",
        "activations + max(0.0, scores - 2 * head)",
    ),
    Fault(
        "weights that XLA copies before its loop do not count",
        "gpt_common/estimate.py::_copy_bytes",
        "footprint.head_copy * head + footprint.loop_copy * blocks * accumulates",
        "0.0",
    ),
    Fault(
        "autocast's copies of the weights do not count",
        "gpt_torch/memory.py::footprint",
        "width if width < size else 0",
        "0",
    ),
    Fault(
        "a dry run that does not fit succeeds",
        "gpt_common/dry_run.py::dry_run",
        "step.memory > target.available",
        "False",
    ),
    Fault(
        "--mfu does nothing",
        "gpt_common/dry_run.py::hours_rows",
        "seconds_at_peak / mfu",
        "seconds_at_peak / 0.4",
    ),
    Fault(
        "GPUs that are not here are as many as those that are",
        "gpt_common/dry_run.py::planned_gpus",
        "mesh_shape(config, count)",
        "mesh_shape(config, 1)",
    ),
    Fault(
        "a container's files count as used memory",
        "gpt_common/memory.py::_container_memory",
        "int(limit) - used + reclaimable",
        "int(limit) - used",
    ),
    Fault(
        "twice the memory that is there may be taken",
        "gpt_common/memory.py::require_free",
        "needed > available",
        "needed > 2 * available",
    ),
)
