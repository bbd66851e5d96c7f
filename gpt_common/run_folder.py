"""The folder of a run: checkpoints `step_000050` and so on, `log.jsonl`, and a link `latest`.

A process may be killed at any instant: a checkpoint under its name is always complete.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from pathlib import Path

from gpt_common.errors import InputError
from gpt_common.lock import FolderLock
from gpt_common.storage import atomic_file, existing_folder, remove_folder

LATEST, LOG = "latest", "log.jsonl"
CONFIG, MODEL, OPTIMIZER = "config.json", "model.safetensors", "optimizer.safetensors"
STATE = "training_state.json"
STEP_FOLDER = re.compile(r"step_\d+")


def checkpoint_folders(path: Path) -> list[Path]:
    """Return `path` if it is a checkpoint, else the checkpoints of a run, newest first.

    The newest is the one that `latest` points to, or without it the one with the highest step.
    Raises `InputError` if there is none.
    """
    own = existing_folder(_resolved(path))
    if (own / CONFIG).is_file():
        return [own]
    found = [_resolved(folder) for folder in reversed(run_checkpoints(path))]
    link = path / LATEST
    if link.is_symlink() or link.is_dir():
        latest = existing_folder(_resolved(link))
        # Checkpoints of later steps are from before the run was resumed at an earlier step.
        if STEP_FOLDER.fullmatch(latest.name):
            found.sort(key=lambda folder: step_of(folder) > step_of(latest))
        found = [latest, *(folder for folder in found if folder != latest)]
    if found:
        return found
    what = "a folder without one" if path.is_dir() else "nothing there"
    raise InputError(f"{path}: expected a checkpoint folder with a config.json, got {what}")


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # resolve() raises for a link that points to itself


def run_checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints in a run's folder, by step."""
    complete = [
        folder
        for folder in run.glob("step_*")
        if STEP_FOLDER.fullmatch(folder.name)
        and all((folder / name).is_file() for name in (CONFIG, MODEL, OPTIMIZER, STATE))
    ]
    return sorted(complete, key=step_of)


def remove_older(folder: Path, keep_last: int) -> None:
    """Remove all checkpoints of a run but the last `keep_last` up to `folder`.

    Later steps, from before the run was resumed, are neither removed nor counted.
    """
    found = run_checkpoints(folder.parent)
    until = found.index(folder) + 1 if folder in found else 0
    for older in found[:until][:-keep_last]:
        remove_folder(older)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: it has a log, `latest`, or complete checkpoints."""
    marks = (folder / LATEST).is_symlink() or (folder / LOG).exists()
    return marks or bool(run_checkpoints(folder))


def step_folder(run: Path, step: int) -> Path:
    """Return the folder of a run's checkpoint after `step` updates."""
    return run / f"step_{step:06d}"


def step_of(folder: Path) -> int:
    """Return the step in the name of a run's checkpoint."""
    return int(folder.name.removeprefix("step_"))


def update_latest(run: Path, folder: Path) -> None:
    """Make the run's link `latest` point to `folder`, atomically."""
    with atomic_file(run / LATEST) as link:
        link.symlink_to(folder.name)


def lock_new_run(out_dir: str | None, framework: str) -> FolderLock:
    """Return the lock on the folder of a new run, which is created if it does not exist.

    A log without checkpoints is renamed. Raises `InputError` if the folder has checkpoints.
    """
    folder = make_folder(out_dir, framework)
    lock = FolderLock(folder)
    if (folder / LATEST).exists() or run_checkpoints(folder):
        lock.release()
        raise InputError(
            f"{folder} holds a run already: resume it (--resume {folder}) "
            f"or name another folder (--out_dir)"
        )
    if (folder / LOG).exists():
        names = (folder / f"log-{n}.jsonl" for n in itertools.count(1))
        (folder / LOG).rename(next(name for name in names if not name.exists()))
    return lock


def make_folder(out_dir: str | None, framework: str) -> Path:
    """Create and return a run's folder, by default one with a new name."""
    if out_dir is not None:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        return Path(out_dir)
    name = time.strftime(f"runs/%Y%m%d-%H%M%S-{framework}")
    names = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
    while True:
        folder = Path(next(names))
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
