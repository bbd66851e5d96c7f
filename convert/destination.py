"""What `--overwrite` may replace: a model, and nothing that is more than one."""

import re
from pathlib import Path

from gpt_common.errors import InputError, brief, printable
from gpt_common.formats import registry
from gpt_common.formats.base import Format, config_path
from gpt_common.formats.orbax import PARAMS
from gpt_common.run_folder import CONFIG, STEP_FOLDER, is_run
from gpt_common.storage import existing_folder, read_json

# What the folder of a model holds; whatever else is there belongs to somebody.
MODEL_FILES = re.compile(
    r"(config|generation_config|training_state|vocab|tokenizer|tokenizer_config|added_tokens"
    r"|special_tokens_map)\.json|merges\.txt|optimizer\.safetensors|flax_model\.msgpack"
    r"|(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?"
)


def check_destination(destination: Path, target: Format, source: Path, overwrite: bool) -> None:
    """Raise `InputError` unless nothing is lost where `destination` is written.

    Without `overwrite` nothing may be there. With it a model may, but for one that is part of the
    source, or of a run.
    """
    if destination.name in ("", ".."):
        raise InputError(f"{destination}: expected the name of a file or of a folder")
    places = [destination, config_path(destination)] if target.has_config_file else [destination]
    for place in places:
        found = existing_folder(place)
        if found.is_symlink():
            link = found.readlink()
            raise InputError(f"{place}: expected a place of its own, got a link to {link}")
        if not found.exists():
            continue
        if not overwrite:
            raise InputError(f"{place}: there already; --overwrite replaces it")
        if overlap(found, source):
            raise InputError(f"{place}: expected another place than that of the source, {source}")
        require_model(found, place, beside=place != destination)


def overlap(first: Path, second: Path) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    if second.exists() and first.samefile(second):
        return True
    first, second = first.resolve(), second.resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)


def require_model(found: Path, place: Path, beside: bool) -> None:
    """Raise `InputError` for what `--overwrite` does not replace: all that is not just a model.

    `beside` is the configuration's place beside it.
    """
    if found.is_dir():
        require_model_folder(found, place)
    elif not found.is_file():
        raise InputError(f"{place}: expected a file or a folder, got a device, a pipe or a socket")
    elif beside:
        require_configuration(found)
    elif found.stat().st_size:
        try:
            registry.detect(found)
        except InputError as error:
            raise InputError(f"{place}: not a model, and so not replaced ({error})") from None


def require_configuration(path: Path) -> None:
    """Raise `InputError` where a file is not the configuration of a GPT-2."""
    if (found := read_json(path).get("model_type")) != "gpt2":
        raise InputError(f"{path}: expected a model's, with model_type gpt2, got {brief(found)}")


def require_model_folder(folder: Path, place: Path) -> None:
    """Raise `InputError` for a folder with more than a model in it, or that is part of a run."""
    names = {path.name: path for path in folder.iterdir()}
    if others := [name for name in names if not is_of_model(names[name])]:
        raise InputError(
            f"{place}: expected a folder with a model and nothing else, "
            f"got {printable(min(others))} in it"
        )
    if names:
        require_configuration(folder / CONFIG)
    if STEP_FOLDER.fullmatch(place.name) and is_run(place.parent):
        raise InputError(f"{place}: expected a folder of its own, got a checkpoint of a run")


def is_of_model(path: Path) -> bool:
    """Whether a model's folder has something of this name and kind."""
    if path.name == PARAMS:
        return path.is_dir() and (path / "_METADATA").is_file()
    return MODEL_FILES.fullmatch(path.name) is not None and not path.is_dir()
