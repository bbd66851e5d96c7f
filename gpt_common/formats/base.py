"""The interface of a format, and the configuration file of weights that do not hold one."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import Activation, GPTConfig
from gpt_common.errors import InputError, brief
from gpt_common.hf_config import config_to_hf, read_config
from gpt_common.storage import atomic_file, checksum, read_json, sync

CHECKSUM = "weights_checksum"  # in FILE.json: the CRC-32 of FILE


@dataclass(frozen=True)
class Format:
    """A checkpoint format: how to detect it, read it, and write it atomically.

    One that `needs_biases` cannot express a model without them: zeros are written instead.
    """

    name: str
    description: str
    detect: Callable[[Path], bool]
    read: Callable[[Path], Checkpoint]
    write: Callable[[Path, Checkpoint], None] | None = None
    keeps_training: bool = False
    needs_biases: bool = False
    has_config_file: bool = False  # FILE.json


def has_files(*names: str) -> Callable[[Path], bool]:
    """Return a function that says whether a folder has all of these files."""
    return lambda path: all((path / name).is_file() for name in names)


def config_path(path: Path) -> Path:
    """Return the path of the configuration of a weights file: `FILE.json`."""
    return path.with_name(path.name + ".json")


def config_of(path: Path) -> GPTConfig:
    """Return the configuration of a weights file, from `FILE.json` or `config.json` in its folder.

    Raises `InputError` if `FILE.json` has the checksum of another file.
    """
    if belongs_to(_new_config_path(path), path):
        return read_config(_new_config_path(path))
    own = config_path(path)
    if not own.exists():
        return read_config(path.parent / "config.json")
    expected = read_json(own).get(CHECKSUM)
    if expected is not None and (got := checksum(path)) != expected:
        raise InputError(
            f"{own}: expected the file of checksum {brief(expected)} beside it, got {got}; "
            f"without {CHECKSUM} in it, it is taken for that of any file"
        )
    return read_config(own)


def write_config(path: Path, config: GPTConfig, **more: str) -> None:
    """Write a Hugging Face `config.json` with more entries."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(config_to_hf(config) | more, indent=2) + "\n")


@contextmanager
def file_with_config(path: Path, config: GPTConfig) -> Iterator[Path]:
    """Yield a temporary path, whose file replaces `path`; then write `config` to `FILE.json`.

    Two files cannot be replaced in one step. So the new configuration is first written under
    another name that readers know, with the checksum of the new file.
    """
    commit_config(path)
    try:
        with atomic_file(path) as part:
            yield part
            write_config(_new_config_path(path), config, **{CHECKSUM: checksum(part)})
    finally:
        commit_config(path)


def commit_config(path: Path) -> None:
    """Rename a file's new configuration to `FILE.json`; remove it if it is of another file."""
    if belongs_to(_new_config_path(path), path):
        os.replace(_new_config_path(path), config_path(path))
        sync(path.parent)
    else:
        _new_config_path(path).unlink(missing_ok=True)


def belongs_to(config: Path, path: Path) -> bool:
    """Whether a configuration exists and has the checksum of this file."""
    if not (config.is_file() and path.is_file()):
        return False
    return read_json(config).get(CHECKSUM) == checksum(path)


def _new_config_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.json-next.part")


def require_activation(config: GPTConfig, activation: Activation, name: str) -> None:
    """Raise `InputError` if the model's GELU is not the one that a format implies."""
    if config.activation != activation:
        raise InputError(
            f"{name} computes {activation} and has no place to say otherwise; "
            f"this model's activation is {config.activation}"
        )
