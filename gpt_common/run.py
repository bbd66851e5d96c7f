"""A training run, but for the framework: where it starts, its data, its folder, its checkpoints."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from gpt_common import cli, tokenizer
from gpt_common.checkpoint import (
    LATEST,
    Checkpoint,
    TrainingState,
    find_checkpoint,
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
    OutputOptions,
    PromptOptions,
    SamplingOptions,
    StoppingOptions,
    TrainConfig,
)
from gpt_common.data import Batch, BatchLoader, Tokens, load_splits
from gpt_common.errors import InputError
from gpt_common.initialization import initialize_weights
from gpt_common.metrics import RunLog
from gpt_common.storage import clean_folder
from gpt_common.weights import Weights, num_parameters

PACKAGES = ("gpt-twins", "torch", "jax", "flax", "optax", "numpy")

# What a resumed run may change; any other flag has to be the one that the run began with.
MAY_CHANGE = {
    "data",
    "val_fraction",
    "steps",
    "device",
    "dtype",
    "compile",
    "fast_ops",
    *(field.name for field in dataclasses.fields(OutputOptions)),
}


def parse_train_config(args: Sequence[str] | None = None) -> TrainConfig:
    """Return the options of the command line; after `--resume`, over those of the run.

    Raises `InputError` for flags that do not parse or contradict the run that is resumed.
    """
    config = cli.parse(TrainConfig, "train", args)
    if config.output.resume is None:
        return config
    stored = stored_config(config.output.resume)
    resumed = cli.parse(TrainConfig, "train", args, default=stored)
    changed = [c for c in changes(stored, resumed) if c.name not in MAY_CHANGE]
    if changed:
        raise InputError(
            "these flags contradict the run that is resumed: "
            + "; ".join(f"{c.name} is {c.before}, got {c.after}" for c in changed)
        )
    return resumed


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
        if value != getattr(getattr(after, group), name)
    ]


def stored_config(path: str) -> TrainConfig:
    """Return the options that a run began with, from one of its checkpoints."""
    folder = find_checkpoint(Path(path))
    groups = read_options(folder)
    if groups is None:
        raise _no_run(path)
    try:
        place = {"out_dir": str(folder.parent), "resume": path}
        return TrainConfig.from_dict(groups | {"output": groups["output"] | place})
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}/training_state.json: options: {error}") from None


def _no_run(path: str) -> InputError:
    return InputError(
        f"{path}: expected a run to resume, got weights alone; to start from them, use --init"
    )


@dataclass
class Run:
    """A run in progress. `start` is the checkpoint, or the initial weights, that it starts from."""

    config: TrainConfig
    framework: str
    start: Checkpoint
    train_loader: BatchLoader
    val_loader: BatchLoader | None
    folder: Path
    log: RunLog = field(init=False)

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

    def due(self, every: int, step: int) -> bool:
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
        """Write the checkpoint after `step` updates, and return its folder."""
        start = self.start.training
        training = TrainingState(
            step=step,
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
            loader=self.train_loader.state(),
            options=self.config.as_dict(),
            versions=versions() | {"framework": self.framework},
            optimizer_step=start.optimizer_step_at(step) if start else step,
            source=start.source if start else {},
        )
        folder = step_folder(self.folder, step)
        write_checkpoint(folder, Checkpoint(self.start.config, weights, training))
        point_latest(self.folder, folder)
        if self.config.output.keep_last:
            remove_older(folder, self.config.output.keep_last)
        self.log.print(f"saved {folder}")
        return folder


def start_run(
    config: TrainConfig, framework: str, device: str, read_weights: Callable[[str], Checkpoint]
) -> Run:
    """Open a run's data, folder and log, and say on the console what it will do.

    `read_weights` reads a model, without the state of a run, in whatever format. Raises
    `InputError` where model, data and folder do not fit together.
    """
    start = start_checkpoint(config, read_weights)
    data, output = config.data, config.output
    if data.seq_len > start.config.block_size:
        raise InputError(
            f"seq_len must be at most block_size {start.config.block_size}, got {data.seq_len}"
        )
    train, val = load_splits(data.data, data.val_fraction, start.config.vocab_size)
    train_loader = open_loader(train, data, "training")
    if start.training:
        train_loader.restore(start.training.loader)
    run = Run(
        config=config,
        framework=framework,
        start=start,
        train_loader=train_loader,
        val_loader=open_loader(val, data, "validation") if evaluates(config) else None,
        folder=open_folder(output, framework),
    )
    sizes = run.first_step, run.steps, run.tokens_per_step
    run.log = RunLog(run.folder, *sizes, output.log_every, asynchronous=device != "cpu")
    run.log.print(
        f"{framework} on {device}, {config.runtime.dtype} | "
        f"{num_parameters(start.config):,} parameters | {run.tokens_per_step:,} tokens a step | "
        f"{data.data}: {len(train):,} tokens to train on, {len(val):,} to validate"
    )
    for note in start.notes:
        run.log.print(note)
    if output.resume:
        run.log.print(f"resumed {output.resume} after step {run.first_step}")
        for change in changes(stored_config(output.resume), config):
            run.log.print(f"changed {change.name}: {change.before} -> {change.after}")
    return run


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


def start_checkpoint(config: TrainConfig, read_weights: Callable[[str], Checkpoint]) -> Checkpoint:
    """Return what a run starts from: a run to resume, a checkpoint's weights, or random ones."""
    if config.output.resume:
        checkpoint = read_checkpoint(config.output.resume)
        if checkpoint.training is None:
            raise _no_run(config.output.resume)
        done = checkpoint.training.step
        if done >= config.optimizer.steps:
            raise InputError(f"expected --steps above the {done} that the run has done")
        return checkpoint
    if config.model.init == "scratch":
        model = config.model.gpt_config()
        return Checkpoint(model, initialize_weights(model, config.runtime.seed))
    checkpoint = read_weights(config.model.init)
    for name, asked in config.model.overrides().items():
        found = getattr(checkpoint.config, name)
        if found != asked:
            raise InputError(f"{config.model.init}: {name} is {found}, got --{name} {asked}")
    return checkpoint


def open_folder(output: OutputOptions, framework: str) -> Path:
    """Return the run's folder, made where need be, without what a killed run left half-done.

    A new run may not enter the folder of another.
    """
    name = time.strftime(f"runs/%Y%m%d-%H%M%S-{framework}")
    folder = Path(output.out_dir or name)
    if output.resume is None and ((folder / LATEST).exists() or run_checkpoints(folder)):
        raise InputError(
            f"{folder} holds a run already: go on with it (--resume {folder}) "
            f"or name another folder (--out_dir)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    clean_folder(folder)
    return folder


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of the packages that a result may depend on, those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
