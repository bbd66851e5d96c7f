"""What a format is, and the configuration in a second file where the first cannot hold it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpt_common.checkpoint import Checkpoint, from_hugging_face, to_hugging_face
from gpt_common.config import Activation, GPTConfig
from gpt_common.errors import InputError, shown
from gpt_common.storage import atomic_file, checksum, read_json, sync

CHECKSUM = "weights_checksum"  # CRC-32 of the file that a configuration lies beside


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
    described: bool = False  # by a configuration in a second file: FILE.json


def beside(path: Path) -> Path:
    """Return the path of the configuration that belongs to a file of weights only."""
    return path.with_name(path.name + ".json")


def read_config(path: Path) -> GPTConfig:
    """Return the model's shape from a Hugging Face `config.json`.

    Raises `InputError` where it is missing, damaged, or of another model.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file: weights alone do not say n_head")
    return from_hugging_face(read_json(path), str(path))


def config_of(path: Path) -> GPTConfig:
    """Return the shape for a file of weights, from `FILE.json` or `config.json` in its folder.

    Raises `InputError` where the checksum in `FILE.json` is that of another file.
    """
    if is_of(_next(path), path):
        return read_config(_next(path))
    own = beside(path)
    if not own.exists():
        return read_config(path.parent / "config.json")
    expected = read_json(own).get(CHECKSUM)
    if expected is not None and (got := checksum(path)) != expected:
        raise InputError(
            f"{own}: expected the file of checksum {shown(expected)} beside it, got {got}; "
            f"without {CHECKSUM} in it, it is taken for that of any file"
        )
    return read_config(own)


def write_config(path: Path, config: GPTConfig, **more: str) -> None:
    """Write a Hugging Face `config.json` with more entries."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(to_hugging_face(config) | more, indent=2) + "\n")


@contextmanager
def described_file(path: Path, config: GPTConfig) -> Iterator[Path]:
    """Yield a temporary path, whose file replaces `path`; then write `config` to `FILE.json`.

    Two files cannot be replaced in one step. So the new configuration is written first, under a
    name that readers know, with a checksum that tells them whether the new file is in place yet.
    """
    settle(path)
    try:
        with atomic_file(path) as part:
            yield part
            write_config(_next(path), config, **{CHECKSUM: checksum(part)})
    finally:
        settle(path)


def settle(path: Path) -> None:
    """Rename a file's waiting configuration to `FILE.json`, or remove one of another file."""
    if is_of(_next(path), path):
        os.replace(_next(path), beside(path))
        sync(path.parent)
    else:
        _next(path).unlink(missing_ok=True)


def is_of(description: Path, path: Path) -> bool:
    """Whether a configuration exists and has the checksum of this file."""
    if not (description.is_file() and path.is_file()):
        return False
    return read_json(description).get(CHECKSUM) == checksum(path)


def _next(path: Path) -> Path:
    return path.with_name(f".{path.name}.json-next.part")


def require_activation(config: GPTConfig, activation: Activation, name: str) -> None:
    """Raise `InputError` for a model whose GELU is not the one that a format implies."""
    if config.activation != activation:
        raise InputError(
            f"{name} computes {activation} and has no place to say otherwise; "
            f"this model's activation is {config.activation}"
        )
