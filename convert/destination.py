"""What `--overwrite` may replace: a model, and nothing else."""

import re
from pathlib import Path

from gpt_common.errors import InputError, brief, printable
from gpt_common.formats import registry
from gpt_common.formats.base import Format, config_path
from gpt_common.formats.orbax import PARAMS
from gpt_common.run_folder import CONFIG, STEP_FOLDER, is_run
from gpt_common.storage import existing_folder, read_json

# The files of a model's folder. A folder with any other file is not replaced.
MODEL_FILES = re.compile(
    r"(config|generation_config|training_state|vocab|tokenizer|tokenizer_config|added_tokens"
    r"|special_tokens_map)\.json|merges\.txt|optimizer\.safetensors|flax_model\.msgpack"
    r"|(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?"
)


def check_destination(destination: Path, target: Format, source: Path, overwrite: bool) -> None:
    """Raise `InputError` if writing to `destination` would lose anything.

    Without `overwrite` it must not exist. With it, it may be a model, but not one that is part of
    the source or of a run.
    """
    if destination.name in ("", ".."):
        raise InputError(f"{destination}: expected the name of a file or of a folder")
    paths = [destination, config_path(destination)] if target.has_config_file else [destination]
    for path in paths:
        found = existing_folder(path)
        if found.is_symlink():
            link = found.readlink()
            raise InputError(f"{path}: expected a place of its own, got a link to {link}")
        if not found.exists():
            continue
        if not overwrite:
            raise InputError(f"{path}: there already; --overwrite replaces it")
        if overlap(found, source):
            raise InputError(f"{path}: expected another place than that of the source, {source}")
        require_model(found, path, beside=path != destination)


def overlap(first: Path, second: Path) -> bool:
    """Whether two paths are the same, or one is inside the other."""
    if second.exists() and first.samefile(second):
        return True
    first, second = first.resolve(), second.resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)


def require_model(found: Path, path: Path, beside: bool) -> None:
    """Raise `InputError` for anything but a model, which `--overwrite` does not replace.

    With `beside`, `path` is the configuration file of a model.
    """
    if found.is_dir():
        require_model_folder(found, path)
    elif not found.is_file():
        raise InputError(f"{path}: expected a file or a folder, got a device, a pipe or a socket")
    elif beside:
        require_configuration(found)
    elif found.stat().st_size:
        try:
            registry.detect(found)
        except InputError as error:
            raise InputError(f"{path}: not a model, and so not replaced ({error})") from None


def require_configuration(path: Path) -> None:
    """Raise `InputError` if a file is not the configuration of a GPT-2."""
    if (found := read_json(path).get("model_type")) != "gpt2":
        raise InputError(f"{path}: expected a model's, with model_type gpt2, got {brief(found)}")


def require_model_folder(folder: Path, path: Path) -> None:
    """Raise `InputError` if a folder has more than a model in it, or is part of a run."""
    names = {file.name: file for file in folder.iterdir()}
    if others := [name for name in names if not is_of_model(names[name])]:
        raise InputError(
            f"{path}: expected a folder with a model and nothing else, "
            f"got {printable(min(others))} in it"
        )
    if names:
        require_configuration(folder / CONFIG)
    if STEP_FOLDER.fullmatch(path.name) and is_run(path.parent):
        raise InputError(f"{path}: expected a folder of its own, got a checkpoint of a run")


def is_of_model(path: Path) -> bool:
    """Whether `path` is one of the files or folders of a model."""
    if path.name == PARAMS:
        return path.is_dir() and (path / "_METADATA").is_file()
    return MODEL_FILES.fullmatch(path.name) is not None and not path.is_dir()
