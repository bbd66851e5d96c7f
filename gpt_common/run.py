"""A training run without its framework: start, data, folder, log, checkpoints."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np

from gpt_common import cli, tokenizer
from gpt_common.checkpoint import Checkpoint, TrainingState, read_checkpoint, write_checkpoint
from gpt_common.config import (
    DEFAULT_LENGTH,
    DataOptions,
    GPTConfig,
    ModelOptions,
    PromptOptions,
    SamplingOptions,
    StoppingOptions,
    TrainConfig,
)
from gpt_common.data import Batch, BatchLoader, Tokens, fingerprint, load_splits
from gpt_common.distributed import Processes, World
from gpt_common.errors import InputError, NonFiniteError
from gpt_common.estimate import Target, estimate_step
from gpt_common.hellaswag import (
    Counts,
    EncodedExample,
    batches,
    count_correct,
    encode_examples,
    read_examples,
)
from gpt_common.initialization import initialize_weights, lazy_initial_weights
from gpt_common.lock import FolderLock
from gpt_common.loss_scale import LossScale
from gpt_common.memory import require_free, require_memory
from gpt_common.metrics import RunLog
from gpt_common.prefetch import Prefetcher
from gpt_common.resume import changes, lock_resumed, not_a_run, restore_position, stored_config
from gpt_common.run_folder import lock_new_run, remove_older, step_folder, update_latest
from gpt_common.scoring import Logprobs
from gpt_common.storage import clean_folder
from gpt_common.trackers import choose_trackers, require_packages
from gpt_common.watchdog import Watchdog
from gpt_common.weights import Array, LazyWeights, Weights, num_parameters

MEMORY_OPTIONS = "--batch_size, --seq_len or the model"  # what to reduce when out of memory
PACKAGES = ("gpt-twins", "torch", "jax", "flax", "optax", "numpy")


@dataclass
class Run:
    """A run in progress. `start` is the checkpoint, or the initial weights, that it starts from.

    The context manager keeps the log open and the folder locked, and handles signals. A thread
    reads the batches of the next step; `loader_state` is that after those handed out.
    """

    config: TrainConfig
    framework: str
    start: Checkpoint
    train_loader: BatchLoader
    val_loader: BatchLoader | None
    folder: Path  # of the log and the checkpoints
    lock: FolderLock | None  # of the first process
    processes: Processes
    log: RunLog = field(init=False)
    hellaswag: Sequence[EncodedExample] = ()
    unconfirmed: int | None = None  # step of a checkpoint that no finite loss has followed yet
    signals: cli.StopSignal = field(default_factory=cli.StopSignal)

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(self.processes.world, self.folder, self.config.parallel.timeout)
        self.loader_state = self.train_loader.state()
        self.prefetcher = Prefetcher(self._read_batches)

    def __enter__(self) -> Run:
        self.watchdog.__enter__()
        self.log.__enter__()
        self.signals.__enter__()
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        self.watchdog.__exit__()
        self.log.__exit__(kind, *details)
        if self.lock:
            self.lock.release()
        self.prefetcher.close()
        self.signals.__exit__(kind, *details)
        if self.log.pipe_closed and kind is None:
            raise BrokenPipeError

    def stopped(self) -> bool:
        """Whether the run should stop: after a signal, or when the reader of stdout has exited.

        All processes call it together: a signal to one of them stops all at the same step.
        """
        self.watchdog.beat()
        pipe_closed = signal.SIGPIPE if self.log.pipe_closed else 0
        stop = self.processes.max(self.signals.number or pipe_closed)
        if stop not in (0, signal.SIGPIPE):  # 0 may be from before a signal that has just come
            self.signals.number = stop
        return stop != 0

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the training data."""
        return fingerprint(self.train_loader.tokens)

    @property
    def first_step(self) -> int:
        """The number of updates already done."""
        return self.start.training.step if self.start.training else 0

    @property
    def steps(self) -> int:
        """The number of updates in the whole run."""
        return self.config.optimizer.steps

    @property
    def tokens_per_step(self) -> int:
        """The number of tokens per update."""
        data = self.config.data
        return data.batch_size * data.seq_len * self.config.grad_accum

    def next_batches(self) -> Batch:
        """Return the batches of one update, each `(grad_accum, B, T)`."""
        batches, self.loader_state = self.prefetcher.next()
        return batches

    def _read_batches(self) -> tuple[Batch, dict[str, int]]:
        """Read the batches of one update; return them and the state of the loader after them."""
        state = self.train_loader.state()
        batches = self.train_loader.next_batches(self.config.grad_accum)
        if self.config.data.overfit_batch:
            self.train_loader.restore(state)
        return batches, self.train_loader.state()

    def answer_hellaswag(self, logprobs: Logprobs) -> Counts | None:
        """Return HellaSwag's right answers of all processes, or None once the run should stop."""
        self.log.flush()
        world, block_size = self.processes.world, self.start.config.block_size
        rows = self.config.data.batch_size // world.size
        share = batches(self.hellaswag, block_size, rows, world.rank, world.size)
        counts = count_correct(share, logprobs, self.stopped)
        return None if counts is None else Counts(*self.processes.sum(counts))

    def is_due(self, every: int, step: int) -> bool:
        """Whether an action of every `every` steps is due after `step` updates, as at the last."""
        return step == self.steps or (every > 0 and step % every == 0)

    @property
    def samples(self) -> tuple[PromptOptions, SamplingOptions, StoppingOptions] | None:
        """The options for samples during training, None if the model cannot continue the prompt."""
        model, prompt = self.start.config, PromptOptions()
        length = min(DEFAULT_LENGTH, model.block_size)
        if len(tokenizer.encode(prompt.prompt)) >= length:
            return None
        if model.vocab_size != tokenizer.VOCAB_SIZE:
            return None
        sampling = SamplingOptions(seed=self.config.runtime.seed)
        return prompt, sampling, StoppingOptions(max_length=length)

    def save(
        self,
        step: int,
        weights: LazyWeights,
        exp_avg: LazyWeights,
        exp_avg_sq: LazyWeights,
        optimizer_step: int,
        loss_scale: LossScale | None = None,
    ) -> Path:
        """Write the checkpoint after `step` updates, and return its folder.

        `optimizer_step` is AdamW's own step: it does not count the updates that were skipped.
        All processes read the arrays, in the same order, and the first one writes them. Raises
        `NonFiniteError`, and writes nothing, if a loss so far or a weight is not finite.
        """
        self.log.flush()
        tensors = (weights, exp_avg, exp_avg_sq)
        values = finite_values(step, tensors)
        streamed = [
            {name: replace(array, read=partial(next, values)) for name, array in named.items()}
            for named in tensors
        ]
        folder = step_folder(self.folder, step)
        write = partial(self._write, folder, step, *streamed, optimizer_step, loss_scale)
        self.processes.on_first(write, others=lambda: deque(values, maxlen=0))
        self.unconfirmed = step
        self.log.saved(folder)
        return folder

    def _write(self, folder: Path, step: int, weights: LazyWeights, *state: Any) -> None:
        training = self._training_state(step, *state)
        checkpoint = Checkpoint(self.start.config, cast(Weights, weights), training)
        write_checkpoint(folder, checkpoint)
        update_latest(self.folder, folder)
        self._remove_older(folder, at_least=2)

    def _training_state(
        self,
        step: int,
        exp_avg: Weights,
        exp_avg_sq: Weights,
        optimizer_step: int,
        loss_scale: LossScale | None,
    ) -> TrainingState:
        start = self.start.training
        return TrainingState(
            step=step,
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
            loader=self.loader_state,
            options=self.config.as_dict(),
            versions=versions() | {"framework": self.framework},
            fingerprint=self.fingerprint,
            optimizer_step=optimizer_step,
            source=start.source if start else {},
            loss_scale=loss_scale,
        )

    def remove_older(self) -> None:
        """Remove the checkpoints that `--keep_last` does not keep, once the newest is confirmed.

        The loss of the next step confirms it by being finite. Until then two are kept at least.
        """
        newest = self.unconfirmed
        if newest is not None and self.log.finite_steps > newest:
            if self.processes.world.is_first:
                self._remove_older(step_folder(self.folder, newest), at_least=1)
            self.unconfirmed = None

    def _remove_older(self, newest: Path, at_least: int) -> None:
        if keep := self.config.output.keep_last:
            remove_older(newest, max(keep, at_least))


def finite_values(step: int, tensors: Iterable[LazyWeights]) -> Iterator[Array]:
    """Yield the arrays in order. Raises `NonFiniteError` for one that is not finite."""
    for weights in tensors:
        for name, lazy in weights.items():
            array = np.asarray(lazy)
            # min and max return NaN if there is one
            if not (np.isfinite(array.min()) and np.isfinite(array.max())):
                raise NonFiniteError(f"step {step}: {name} is not finite after it: not saved")
            yield array


def start_run(
    config: TrainConfig,
    framework: str,
    target: Target,
    read_weights: Callable[[str], Checkpoint],
    processes: Processes | None = None,
) -> Run:
    """Open a run's data, folder and log, and print a summary.

    `read_weights` reads a model in any format, without training state; `target` is what the run
    computes on. The first of the `processes` writes. Raises `InputError` if model, data and folder
    do not fit together or another process uses the folder.
    """
    processes = processes or Processes()
    require_packages(config.output)
    # First: another process may be continuing that run.
    lock = processes.on_first(lambda: lock_resumed(config.output))
    try:
        run = _open_run(config, framework, target, read_weights, processes, lock)
    except BaseException:
        if lock:
            lock.release()
        raise
    _print_summary(run, target)
    return run


def _open_run(
    config: TrainConfig,
    framework: str,
    target: Target,
    read_weights: Callable[[str], Checkpoint],
    processes: Processes,
    lock: FolderLock | None,
) -> Run:
    start = initial_checkpoint(config, target, read_weights, processes.world)
    train, val = load_data(config, start.config)
    seed = config.runtime.seed if config.data.shuffle else None
    rows = processes.world.rows(config.data.batch_size)
    train_loader = open_loader(train, config.data, "training", rows, seed)
    if start.training:
        restore_position(train_loader, start.training, config)
    val_loader = None
    if has_validation(config):
        val_loader = open_loader(val, config.data, "validation", rows)
    examples: Sequence[EncodedExample] = ()
    if path := config.output.hellaswag:
        examples = encode_examples(read_examples(path), "build-nanogpt", start.config)
    lock = processes.on_first(lambda: open_folder(lock, config.output.out_dir, framework))
    folder = Path(processes.broadcast(str(lock.folder) if lock else ""))
    loaders = train_loader, val_loader
    run = Run(config, framework, start, *loaders, folder, lock, processes, examples)
    if step_folder(folder, run.first_step).is_dir():
        run.unconfirmed = run.first_step
    run.log = RunLog(
        folder if processes.world.is_first else None,
        *(run.first_step, run.steps, run.tokens_per_step),
        config.output.log_every,
        asynchronous=target.kind != "cpu",
        seconds_at_peak=target.seconds_at_peak(start.config, config),
        peak_memory=target.peak_memory,
        trackers=choose_trackers(config, folder, run.first_step),
    )
    return run


def open_folder(lock: FolderLock | None, out_dir: str | None, framework: str) -> FolderLock:
    """Return the lock on the folder of a run, cleaned; that of a resumed run is `lock`.

    Raises `InputError` if the folder of a new run holds one already.
    """
    lock = lock or lock_new_run(out_dir, framework)
    clean_folder(lock.folder)
    return lock


def _print_summary(run: Run, target: Target) -> None:
    config, tokens = run.config, run.train_loader.tokens
    validation = f", {len(run.val_loader.tokens):,} to validate" if run.val_loader else ""
    parameters = num_parameters(run.start.config)
    summary = cli.summary(run.framework, target.kind, config.runtime.dtype, parameters)
    run.log.print(f"{summary} | {run.tokens_per_step:,} tokens a step")
    run.log.print(f"{config.data.data}: {len(tokens):,} tokens to train on{validation}")
    if config.optimizer.total_batch_tokens is not None:
        run.log.print(
            f"grad_accum {config.grad_accum}: batches of {config.data.batch_size:,} x "
            f"{config.data.seq_len:,} tokens in each step"
        )
    for note in [*run.start.notes, *config.notes]:
        run.log.print(f"note: {note}")
    if config.output.sample_every and run.samples is None:
        run.log.print("note: --sample_every has no effect: the model cannot continue the prompt")
    resumed = config.output.resume
    if resumed is None:
        return
    run.log.print(f"resumed {resumed} after step {run.first_step}")
    for change in changes(stored_config(resumed), config):
        run.log.print(f"changed {change.name}: {change.before} -> {change.after}")
    if run.start.training and run.train_loader.state() != run.start.training.loader:
        run.log.print("the position is past the end of the data: starting at its first token")


def has_validation(config: TrainConfig) -> bool:
    """Whether the run computes a validation loss."""
    return config.output.eval_every > 0 and config.data.val_fraction > 0


def load_data(config: TrainConfig, model: GPTConfig) -> tuple[Tokens, Tokens]:
    """Return the tokens of training and validation.

    Raises `InputError` if they cannot be read or do not fit the model.
    """
    data, longest = config.data, model.block_size
    if data.seq_len > longest:
        raise InputError(f"seq_len must be at most block_size {longest}, got {data.seq_len}")
    return load_splits(data.data, data.val_fraction, model.vocab_size)


def open_loader(
    tokens: Tokens,
    data: DataOptions,
    split: str,
    rows: range | None = None,
    seed: int | None = None,
) -> BatchLoader:
    """Return a loader of training or validation data. Raises `InputError` for too few tokens."""
    try:
        return BatchLoader(tokens, data.batch_size, data.seq_len, rows, seed)
    except InputError as error:
        hint = "; --eval_every 0 disables it" if split == "validation" else ""
        raise InputError(f"{data.data}: {split}: {error}{hint}") from None


def initial_checkpoint(
    config: TrainConfig,
    target: Target,
    read_weights: Callable[[str], Checkpoint],
    world: World,
) -> Checkpoint:
    """Return what a run starts from: a run to resume, a checkpoint's weights, or random ones.

    Raises `InputError` if it cannot be read, contradicts the options, or memory is too small.
    """
    if config.output.resume:
        checkpoint = _resumed_checkpoint(config.output.resume, config.optimizer.steps)
    elif config.model.init == "scratch":
        model = config.model.gpt_config()
        check_memory(model, config, target)
        return Checkpoint(model, _initial_weights(model, config.runtime.seed, world))
    else:
        checkpoint = read_weights(config.model.init)
        check_shape(checkpoint.config, config.model)
    check_memory(checkpoint.config, config, target)
    return checkpoint


def check_shape(found: GPTConfig, options: ModelOptions) -> None:
    """Raise `InputError` if the model of `--init` is not as the flags say."""
    for name, given in options.overrides().items():
        if getattr(found, name) != given:
            raise InputError(
                f"{options.init}: {name} is {getattr(found, name)}, got --{name} {given}"
            )
    if options.preset != ModelOptions.preset and options.gpt_config() != found:
        raise InputError(f"{options.init}: not of the sizes of --preset {options.preset}")


def _initial_weights(model: GPTConfig, seed: int, world: World) -> Weights:
    """Return initial weights; of several processes on a host none has the whole model."""
    if world.local_size == 1:
        return initialize_weights(model, seed)
    return cast(Weights, lazy_initial_weights(model, seed))


def _resumed_checkpoint(path: str, steps: int) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    if checkpoint.training is None:
        raise not_a_run(path)
    if (done := checkpoint.training.step) >= steps:
        raise InputError(f"expected --steps above the {done} that the run has done")
    return checkpoint


def check_memory(model: GPTConfig, config: TrainConfig, target: Target) -> None:
    """Raise `InputError` if training takes more memory than a device, or the machine, has."""
    needed = estimate_step(model, config, target).at_least
    tokens = 8 * config.data.batch_size * config.data.seq_len * config.grad_accum
    if target.kind != "cpu":
        require_free(needed, target.free, "training", MEMORY_OPTIONS)
        needed = 4 * num_parameters(model)  # until they are on the device
    require_memory(needed + tokens, "training", MEMORY_OPTIONS)


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of the installed packages that a result may depend on."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
