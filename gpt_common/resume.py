"""Resuming a run: its options, which of them may change, its folder, its position in the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_common import cli
from gpt_common.checkpoint import TrainingState, read_options
from gpt_common.config import OutputOptions, TrainConfig
from gpt_common.data import BatchLoader, Tokens, fingerprint
from gpt_common.errors import InputError
from gpt_common.lock import FolderLock
from gpt_common.recipes import recipe_defaults
from gpt_common.run_folder import STATE, is_run, run_checkpoints

AUTO = "auto"
NOT_GIVEN = "\0"  # not a path, and so not a value of --data

# Options that may change when a run is resumed.
RESUME_OVERRIDES = {
    *("data", "val_fraction", "steps", "device", "dtype", "compile", "fast_ops"),
    *(field.name for field in dataclasses.fields(OutputOptions)),
}


def parse_train_config(command: str, args: Sequence[str] | None = None) -> TrainConfig:
    """Return the options of the command line, over those of the run or recipe that it names.

    `command` is the module that `python -m` runs. Raises `InputError` for invalid flags, and for
    those that may not change when a run is resumed.
    """
    config = cli.parse(TrainConfig, command, args)
    path = run_to_resume(config.output)
    if path is None:
        if config.model.recipe is not None:
            defaults = recipe_defaults(config.model.recipe, config.optimizer)
            config = cli.parse(TrainConfig, command, args, default=defaults)
        return with_resume(config, None)
    stored = stored_config(path)
    resumed = with_resume(_parse_over(stored, command, args), path)
    changed = [c for c in changes(stored, resumed) if c.name not in RESUME_OVERRIDES]
    if changed:
        raise InputError(
            "these flags contradict the run that is resumed: "
            + "; ".join(f"{c.name} is {c.before}, got {c.after}" for c in changed)
        )
    return resumed


def run_to_resume(output: OutputOptions) -> str | None:
    """Return the run that `--resume` names; of `auto` that in `--out_dir`, None if it has none.

    Raises `InputError` for `auto` without `--out_dir`.
    """
    if output.resume != AUTO:
        return output.resume
    if output.out_dir is None:
        raise InputError("--resume auto: expected the run's folder in --out_dir, got none")
    return output.out_dir if run_checkpoints(Path(output.out_dir)) else None


def with_resume(config: TrainConfig, path: str | None) -> TrainConfig:
    """Return the options with the run to resume, None for a new one."""
    return dataclasses.replace(config, output=dataclasses.replace(config.output, resume=path))


def _parse_over(stored: TrainConfig, command: str, args: Sequence[str] | None) -> TrainConfig:
    """Parse flags with stored options as defaults; `new_data` is whether `--data` is given."""
    default = dataclasses.replace(stored, data=dataclasses.replace(stored.data, data=NOT_GIVEN))
    config = cli.parse(TrainConfig, command, args, default=default)
    if config.data.data == NOT_GIVEN:
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
        if group != "parallel"
        for name, value in vars(options).items()
        if value != getattr(getattr(after, group), name) and name != "new_data"
    ]


def stored_config(path: str) -> TrainConfig:
    """Return the options in a checkpoint, with `out_dir` set to the folder of its run.

    It is None if the checkpoint is not in a run's folder, as after `python -m convert`.
    """
    folder, groups = read_options(path)
    if groups is None:
        raise not_a_run(path)
    in_run = is_run(folder.parent) or folder.parent == Path(path).resolve()
    out_dir = str(folder.parent) if in_run else None
    config = TrainConfig.from_dict(groups, str(folder / STATE))
    output = dataclasses.replace(config.output, out_dir=out_dir, resume=path, new_data=False)
    return dataclasses.replace(config, output=output)


def not_a_run(path: str) -> InputError:
    """Return the error for a checkpoint without training state."""
    return InputError(
        f"{path}: expected a run to resume, got weights alone; to start from them, use --init"
    )


def lock_resumed(output: OutputOptions) -> FolderLock | None:
    """Return the lock on the folder of a resumed run, None if the run continues in another one."""
    if output.resume is None or output.out_dir is None:
        return None
    folder = Path(output.out_dir)
    if stored_config(output.resume).output.out_dir != str(folder.resolve()):
        return None
    return FolderLock(folder)


def restore_position(loader: BatchLoader, training: TrainingState, config: TrainConfig) -> None:
    """Set the loader to the run's position; with new data that is too short, to its start.

    Raises `InputError` if the data has changed and `--data` was not given.
    """
    if not config.output.new_data:
        check_data(loader.tokens, training.fingerprint, config.data.data)
    elif not loader.accepts(training.loader):
        return
    loader.restore(training.loader)


def check_data(tokens: Tokens, expected: dict[str, Any], source: str) -> None:
    """Raise `InputError` if the tokens do not have the expected fingerprint."""
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
            f"to use it anyway, add --data {source}"
        )
