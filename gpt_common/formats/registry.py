"""All formats. Each converts from and to one representation: Hugging Face's names and layout.

The format of a file is detected by its content, not its name.
"""

from dataclasses import replace
from pathlib import Path

from gpt_common.checkpoint import Checkpoint, read_checkpoint
from gpt_common.errors import InputError
from gpt_common.formats import (
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
from gpt_common.formats.base import Format
from gpt_common.run_folder import STATE, is_run
from gpt_common.storage import existing_folder

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
    """Return the format of a file or folder. Raises `InputError` if it is none of `FORMATS`."""
    for form in FORMATS.values():
        if form.detect(path):
            return form
    raise InputError(f"{path}: expected one of the formats that --list shows, got none of them")


def locate(source: str) -> Path:
    """Return the path of a source: a path, or the name of a model on the Hub, downloaded.

    Raises `InputError` if neither exists.
    """
    path = existing_folder(Path(source))
    return path if path.exists() else huggingface_hub.download(source)


def read(source: str, with_training: bool = True) -> tuple[Checkpoint, Format]:
    """Return a checkpoint in any format, of a run the newest undamaged one, and its format.

    Raises `InputError` if it is missing or damaged.
    """
    path = locate(source)
    if is_run(path) or ((path / STATE).exists() and not with_training):
        return read_checkpoint(path, with_training), FORMATS["huggingface"]
    form = detect(path)
    return form.read(path), form


def read_weights(source: str) -> Checkpoint:
    """Return a checkpoint in any format without training state.

    Raises `InputError` if it is missing or damaged.
    """
    return replace(read(source, with_training=False)[0], training=None)


def destination_format(path: Path, name: str | None) -> Format:
    """Return the format to write: by name, or by the destination's suffix.

    Raises `InputError` if it is unknown or read only.
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
