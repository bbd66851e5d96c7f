"""Every foreign format is a spoke on one hub: read to, and written from, the neutral weights.

A format is found by what a file is, not by what it is called.
"""

import contextlib
from dataclasses import replace
from pathlib import Path

from convert.formats import (
    build_nanogpt,
    flax_msgpack,
    huggingface,
    huggingface_flax,
    huggingface_hub,
    llmc,
    nanogpt,
    openai,
    orbax,
    torch_state_dict,
)
from convert.formats.base import Format
from gpt_common.checkpoint import CONFIG, STATE, Checkpoint, checkpoint_folders, read_checkpoint
from gpt_common.errors import InputError

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        *huggingface.FORMATS,
        huggingface_flax.FORMAT,
        torch_state_dict.FORMAT,
        flax_msgpack.FORMAT,
        orbax.FORMAT,
        nanogpt.FORMAT,
        build_nanogpt.FORMAT,
        llmc.FORMAT,
        openai.FORMAT,
    )
}
ENDINGS = {".pt": "torch", ".msgpack": "flax", ".bin": "llmc", "": "huggingface"}


def detect(path: Path) -> Format:
    """Return the format of a file or folder. Raises `InputError` where it is none of ours."""
    for form in FORMATS.values():
        if form.detect(path):
            return form
    raise InputError(f"{path}: expected one of the formats that --list shows, got none of them")


def locate(source: str) -> Path:
    """Return where a source lies: a path, a run's last checkpoint, or a Hub name's download.

    Raises `InputError` where there is no such thing.
    """
    path = Path(source)
    with contextlib.suppress(InputError, StopIteration):  # of what is not a checkpoint of ours
        return next(f for f in checkpoint_folders(path) if (f / CONFIG).is_file())
    return path if path.exists() else huggingface_hub.download(source)


def read(source: str) -> tuple[Checkpoint, Format]:
    """Return the model of a source in whatever format, and the format.

    Raises `InputError` where there is nothing to read or it is damaged.
    """
    path = locate(source)
    form = detect(path)
    return form.read(path), form


def read_weights(source: str) -> Checkpoint:
    """Return the model of a source in whatever format, without the state of a run.

    Raises `InputError` where there is nothing to read or it is damaged.
    """
    path = locate(source)
    if (path / STATE).exists():
        return read_checkpoint(path, with_training=False)
    return replace(detect(path).read(path), training=None)


def destination_format(path: Path, name: str | None) -> Format:
    """Return the format to write: by name, or by the destination's ending.

    Raises `InputError` where there is none or it is only read.
    """
    name = name or ENDINGS.get(path.suffix)
    if name not in FORMATS:
        raise InputError(
            f"{path}: expected --to {', '.join(FORMATS)}, "
            f"or the ending {', '.join(filter(None, ENDINGS))} or none, got {name or path.suffix}"
        )
    if FORMATS[name].write is None:
        raise InputError(f"{name} is only read, not written")
    return FORMATS[name]
