"""A training run, but for the framework: where it starts, its data, its folder, its checkpoints."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from gpt_common import cli, tokenizer
from gpt_common.checkpoint import (
    LATEST,
    LOG,
    Checkpoint,
    TrainingState,
    is_run,
    point_latest,
    read_checkpoint,
    read_options,
    remove_older,
    run_checkpoints,
    step_folder,
    write_checkpoint,
)
from gpt_common.config import (
    DEFAULT_LENGTH,
    DataOptions,
    Dtype,
    GPTConfig,
    OutputOptions,
    PromptOptions,
    SamplingOptions,
    StoppingOptions,
    TrainConfig,
)
from gpt_common.data import Batch, BatchLoader, Tokens, fingerprint, load_splits
from gpt_common.errors import InputError, NonFiniteError
from gpt_common.initialization import initialize_weights
from gpt_common.lock import FolderLock
from gpt_common.memory import require_memory, training_memory
from gpt_common.metrics import RunLog
from gpt_common.storage import clean_folder
from gpt_common.weights import Weights, num_parameters

# What a user who has too little memory can make smaller.
SMALLER = "--batch_size, --seq_len or the model"
PACKAGES = ("gpt-twins", "torch", "jax", "flax", "optax", "numpy")

UNSAID = "\0"  # no path, and so no value of --data

# What a resumed run may change; any other flag has to be the one that the run began with.
RESUME_OVERRIDES = {
    "val_fraction",
    "data",
    "steps",
    "device",
    "dtype",
    "compile",
    "fast_ops",
    *(field.name for field in dataclasses.fields(OutputOptions)),
}


def parse_train_config(command: str, args: Sequence[str] | None = None) -> TrainConfig:
    """Return the options of the command line; after `--resume`, over those of the run.

    `command` is what `python -m` runs. Raises `InputError` for flags that do not parse or
    contradict the run that is resumed.
    """
    config = cli.parse(TrainConfig, command, args)
    if config.output.resume is None:
        return config
    stored = stored_config(config.output.resume)
    resumed = _parse_over(stored, command, args)
    changed = [c for c in changes(stored, resumed) if c.name not in RESUME_OVERRIDES]
    if changed:
        raise InputError(
            "these flags contradict the run that is resumed: "
            + "; ".join(f"{c.name} is {c.before}, got {c.after}" for c in changed)
        )
    return resumed


def _parse_over(stored: TrainConfig, command: str, args: Sequence[str] | None) -> TrainConfig:
    """Return the flags over stored options, and with them whether `--data` was among the flags."""
    unsaid = dataclasses.replace(stored, data=dataclasses.replace(stored.data, data=UNSAID))
    config = cli.parse(TrainConfig, command, args, default=unsaid)
    if config.data.data == UNSAID:
        data = dataclasses.replace(config.data, data=stored.data.data)
        return dataclasses.replace(config, data=data)
    output = dataclasses.replace(config.output, new_data=True)
    return dataclasses.replace(config, output=output)


@dataclass(frozen=True)
class Change:
    """An option that differs between two configurations."""

    name: str
    before: Any
    after: Any


def changes(before: TrainConfig, after: TrainConfig) -> list[Change]:
    """Return the options, of all groups, that differ."""
    return [
        Change(name, value, getattr(getattr(after, group), name))
        for group, options in vars(before).items()
        for name, value in vars(options).items()
        if value != getattr(getattr(after, group), name) and name != "new_data"
    ]


def stored_config(path: str) -> TrainConfig:
    """Return the options that a run began with, from one of its checkpoints.

    Its folder is that of the run. A checkpoint that is in no run's folder, as `convert` writes
    them, begins a folder of its own.
    """
    folder, groups = read_options(path)
    if groups is None:
        raise _no_run(path)
    own = is_run(folder.parent) or folder.parent == Path(path).resolve()
    out_dir = str(folder.parent) if own else None
    try:
        config = TrainConfig.from_dict(groups)
    except InputError as error:
        raise InputError(f"{folder}/training_state.json: options: {error}") from None
    output = dataclasses.replace(config.output, out_dir=out_dir, resume=path, new_data=False)
    return dataclasses.replace(config, output=output)


def _no_run(path: str) -> InputError:
    return InputError(
        f"{path}: expected a run to resume, got weights alone; to start from them, use --init"
    )


@dataclass
class Run:
    """A run in progress. `start` is the checkpoint, or the initial weights, that it starts from.

    As a context it keeps its log open and its folder locked, and turns signals into `stopped()`.
    """

    config: TrainConfig
    framework: str
    start: Checkpoint
    train_loader: BatchLoader
    val_loader: BatchLoader | None
    lock: FolderLock
    log: RunLog = field(init=False)
    newest: int | None = None  # the step of a checkpoint that is to prove itself yet
    signals: cli.StopSignal = field(default_factory=cli.StopSignal)

    def __enter__(self) -> Run:
        self.log.__enter__()
        self.signals.__enter__()
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        self.log.__exit__(kind, *details)
        self.lock.release()
        self.signals.__exit__(kind, *details)
        if self.log.reader_gone and kind is None:
            raise BrokenPipeError

    def stopped(self) -> bool:
        """Whether a signal asks the run to end, or nobody reads the pipe that it writes to."""
        return self.signals.received() or self.log.reader_gone

    @property
    def folder(self) -> Path:
        """Where log and checkpoints are written."""
        return self.lock.folder

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What tells the training data from other data."""
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
        """The number of tokens in one update."""
        data = self.config.data
        return data.batch_size * data.seq_len * self.config.optimizer.grad_accum

    def next_batches(self) -> Batch:
        """Return the batches of one update, each `(grad_accum, B, T)`."""
        place = self.train_loader.state()
        batches = self.train_loader.next_batches(self.config.optimizer.grad_accum)
        if self.config.data.overfit_batch:
            self.train_loader.restore(place)
        return batches

    def is_due(self, every: int, step: int) -> bool:
        """Whether what is done every so many steps is due after `step` updates."""
        return step == self.steps or (every > 0 and step % every == 0)

    @property
    def samples(self) -> tuple[PromptOptions, SamplingOptions, StoppingOptions] | None:
        """What to sample on the way, or None where the model cannot continue the prompt."""
        model, prompt = self.start.config, PromptOptions()
        length = min(DEFAULT_LENGTH, model.block_size)
        if len(tokenizer.encode(prompt.prompt)) >= length:
            return None
        if model.vocab_size != tokenizer.VOCAB_SIZE:
            return None
        sampling = SamplingOptions(seed=self.config.runtime.seed)
        return prompt, sampling, StoppingOptions(max_length=length)

    def save(self, step: int, weights: Weights, exp_avg: Weights, exp_avg_sq: Weights) -> Path:
        """Write the checkpoint after `step` updates, and return its folder.

        Raises `NonFiniteError`, and writes nothing, where a loss so far or a weight is not finite.
        """
        self.log.flush()
        check_finite(step, weights, exp_avg, exp_avg_sq)
        start = self.start.training
        training = TrainingState(
            step=step,
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
            loader=self.train_loader.state(),
            options=self.config.as_dict(),
            versions=versions() | {"framework": self.framework},
            fingerprint=self.fingerprint,
            optimizer_step=start.optimizer_step_at(step) if start else step,
            source=start.source if start else {},
        )
        folder = step_folder(self.folder, step)
        write_checkpoint(folder, Checkpoint(self.start.config, weights, training))
        point_latest(self.folder, folder)
        self.newest = step
        self._remove_older(at_least=2)
        self.log.saved(folder)
        return folder

    def remove_older(self) -> None:
        """Remove what `--keep_last 1` does not keep, once the newest checkpoint has proved itself.

        It has when the step after it was finite: until then the one before it stays.
        """
        if self.newest is not None and self.log.finite_steps > self.newest:
            self._remove_older(at_least=1)
            self.newest = None

    def _remove_older(self, at_least: int) -> None:
        keep, newest = self.config.output.keep_last, self.newest
        if keep and newest is not None:
            remove_older(step_folder(self.folder, newest), max(keep, at_least))


def check_finite(step: int, *tensors: Weights) -> None:
    """Raise `NonFiniteError` where a number of a model or its moments is not finite."""
    for weights in tensors:
        for name, weight in weights.items():
            # NaN is the least and the largest of whatever it is among
            if not (np.isfinite(weight.min()) and np.isfinite(weight.max())):
                raise NonFiniteError(f"step {step}: {name} is not finite after it: not saved")


def start_run(
    config: TrainConfig, framework: str, device: str, read_weights: Callable[[str], Checkpoint]
) -> Run:
    """Open a run's data, folder and log, and say on the console what it will do.

    `read_weights` reads a model, without the state of a run, in whatever format. Raises
    `InputError` where model, data and folder do not fit together or another process has the folder.
    """
    lock = lock_resumed(config.output)  # first: another process may be moving that run on
    try:
        run = _open_run(config, framework, device, read_weights, lock)
    except BaseException:
        if lock:
            lock.release()
        raise
    _announce(run, device)
    return run


def _open_run(
    config: TrainConfig,
    framework: str,
    device: str,
    read_weights: Callable[[str], Checkpoint],
    lock: FolderLock | None,
) -> Run:
    start = start_checkpoint(config, device, read_weights)
    data, output = config.data, config.output
    if data.seq_len > start.config.block_size:
        raise InputError(
            f"seq_len must be at most block_size {start.config.block_size}, got {data.seq_len}"
        )
    train, val = load_splits(data.data, data.val_fraction, start.config.vocab_size)
    train_loader = open_loader(train, data, "training")
    if start.training:
        restore_place(train_loader, start.training, config)
    val_loader = open_loader(val, data, "validation") if evaluates(config) else None
    lock = lock or lock_new(output, framework)
    clean_folder(lock.folder)
    run = Run(config, framework, start, train_loader, val_loader, lock)
    if step_folder(run.folder, run.first_step).is_dir():
        run.newest = run.first_step
    sizes = run.first_step, run.steps, run.tokens_per_step
    run.log = RunLog(run.folder, *sizes, output.log_every, asynchronous=device != "cpu")
    return run


def _announce(run: Run, device: str) -> None:
    config, tokens = run.config, run.train_loader.tokens
    validation = f", {len(run.val_loader.tokens):,} to validate" if run.val_loader else ""
    run.log.print(
        f"{run.framework} on {device}, {config.runtime.dtype} | "
        f"{num_parameters(run.start.config):,} parameters | "
        f"{run.tokens_per_step:,} tokens a step"
    )
    run.log.print(f"{config.data.data}: {len(tokens):,} tokens to train on{validation}")
    for note in run.start.notes:
        run.log.print(f"note: {note}")
    resumed = config.output.resume
    if resumed is None:
        return
    run.log.print(f"resumed {resumed} after step {run.first_step}")
    for change in changes(stored_config(resumed), config):
        run.log.print(f"changed {change.name}: {change.before} -> {change.after}")
    if run.start.training and run.train_loader.state() != run.start.training.loader:
        run.log.print("the place in the data is past its end: starting again at the first token")


def restore_place(loader: BatchLoader, training: TrainingState, config: TrainConfig) -> None:
    """Let the data go on where the run was; other data than it had, only where `--data` names it.

    Raises `InputError` where it is other data without that.
    """
    if not config.output.new_data:
        check_data(loader.tokens, training.fingerprint, config.data.data)
    elif training.loader["position"] >= len(loader.tokens):
        return  # it starts at its first token
    loader.restore(training.loader)


def check_data(tokens: Tokens, expected: dict[str, Any], source: str) -> None:
    """Raise `InputError` where the training data is not what the fingerprint says."""
    if not expected:  # an older checkpoint, or another program's
        return
    found = fingerprint(tokens)
    if found != expected:
        before, now = (
            f"{f.get('length')} tokens (sha256 {str(f.get('sha256'))[:8]})"
            for f in (expected, found)
        )
        raise InputError(
            f"{source}: not the data that the run was trained on: expected {before}, got {now}; "
            f"--data {source} goes on with it all the same"
        )


def evaluates(config: TrainConfig) -> bool:
    """Whether the run computes a validation loss."""
    return config.output.eval_every > 0 and config.data.val_fraction > 0


def open_loader(tokens: Tokens, data: DataOptions, part: str) -> BatchLoader:
    """Return a loader over the training or validation part of the data."""
    try:
        return BatchLoader(tokens, data.batch_size, data.seq_len)
    except InputError as error:
        hint = "; --eval_every 0 does without" if part == "validation" else ""
        raise InputError(f"{data.data}: {part}: {error}{hint}") from None


def start_checkpoint(
    config: TrainConfig, device: str, read_weights: Callable[[str], Checkpoint]
) -> Checkpoint:
    """Return what a run starts from: a run to resume, a checkpoint's weights, or random ones.

    Raises `InputError` where there is no such start, or no memory for it.
    """
    if config.output.resume:
        checkpoint = read_checkpoint(config.output.resume)
        if checkpoint.training is None:
            raise _no_run(config.output.resume)
        done = checkpoint.training.step
        if done >= config.optimizer.steps:
            raise InputError(f"expected --steps above the {done} that the run has done")
    elif config.model.init == "scratch":
        model = config.model.gpt_config()
        check_memory(model, config, device)
        return Checkpoint(model, initialize_weights(model, config.runtime.seed))
    else:
        checkpoint = read_weights(config.model.init)
        for name, asked in config.model.overrides().items():
            found = getattr(checkpoint.config, name)
            if found != asked:
                raise InputError(f"{config.model.init}: {name} is {found}, got --{name} {asked}")
    check_memory(checkpoint.config, config, device)
    return checkpoint


def check_memory(model: GPTConfig, config: TrainConfig, device: str) -> None:
    """Raise `InputError` where training a model takes more memory than the machine has."""
    dtype: Dtype = "float32" if config.runtime.dtype == "auto" else config.runtime.dtype
    needed = training_memory(
        model, config.data, config.optimizer.grad_accum, dtype, on_cpu=device == "cpu"
    )
    require_memory(needed, "training", SMALLER)


def lock_resumed(output: OutputOptions) -> FolderLock | None:
    """Return the lock on the folder of the run that is resumed, where the run goes on in it."""
    if output.resume is None or output.out_dir is None:
        return None
    folder = Path(output.out_dir)
    if stored_config(output.resume).output.out_dir != str(folder.resolve()):
        return None
    return FolderLock(folder)


def lock_new(output: OutputOptions, framework: str) -> FolderLock:
    """Return the lock on a folder, made where need be, for a run that begins.

    Raises `InputError` where it holds a run already. The log of a run that never came to a
    checkpoint stays, under another name.
    """
    folder = make_folder(output.out_dir, framework)
    lock = FolderLock(folder)
    if (folder / LATEST).exists() or run_checkpoints(folder):
        lock.release()
        raise InputError(
            f"{folder} holds a run already: go on with it (--resume {folder}) "
            f"or name another folder (--out_dir)"
        )
    if (folder / LOG).exists():
        names = (folder / f"log-{n}.jsonl" for n in itertools.count(1))
        (folder / LOG).rename(next(name for name in names if not name.exists()))
    return lock


def make_folder(out_dir: str | None, framework: str) -> Path:
    """Return a run's folder, made where need be; by default one that no other process has."""
    if out_dir is not None:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        return Path(out_dir)
    name = time.strftime(f"runs/%Y%m%d-%H%M%S-{framework}")
    number = 1
    while True:
        folder = Path(name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of the packages that a result may depend on, those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
