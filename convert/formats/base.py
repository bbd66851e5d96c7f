"""What a format is, and the configuration beside files that have no place for one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt_common import checkpoint as neutral
from gpt_common.checkpoint import Checkpoint, to_hugging_face
from gpt_common.config import Activation, GPTConfig
from gpt_common.errors import InputError
from gpt_common.storage import atomic_file


@dataclass(frozen=True)
class Format:
    """A checkpoint format: how to know it, to read it, and to write it, whole or not at all.

    One that `needs_biases` has no word for a model without: zeros are written in their place.
    """

    name: str
    description: str
    detect: Callable[[Path], bool]
    read: Callable[[Path], Checkpoint]
    write: Callable[[Path, Checkpoint], None] | None = None
    keeps_training: bool = False
    needs_biases: bool = False


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(count)


def beside(path: Path) -> Path:
    """Return the name of the configuration beside a file that holds weights only."""
    return path.with_name(path.name + ".json")


def read_config(path: Path) -> GPTConfig:
    """Return the model's shape from a Hugging Face `config.json`.

    Raises `InputError` where it is missing, damaged, or of another model.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file: weights alone do not say n_head")
    return neutral.read_config(path)


def config_of(path: Path) -> GPTConfig:
    """Return the shape beside a file of weights: `FILE.json`, or `config.json` in its folder."""
    own = beside(path)
    return read_config(own if own.exists() else path.parent / "config.json")


def write_config(path: Path, config: GPTConfig) -> None:
    """Write a Hugging Face `config.json`."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(to_hugging_face(config), indent=2) + "\n")


def require_activation(config: GPTConfig, activation: Activation, name: str) -> None:
    """Raise `InputError` for a model whose GELU the programs of that format do not compute."""
    if config.activation != activation:
        raise InputError(
            f"{name} computes {activation} and has no place to say otherwise; "
            f"this model's activation is {config.activation}"
        )
