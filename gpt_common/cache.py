"""The cache folder, for encoded tokens, downloads and compiled programs."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from gpt_common.errors import InputError
from gpt_common.storage import atomic_file


def cache_folder() -> Path:
    """Return GPT_TWINS_CACHE, else `gpt-twins` in the user's cache folder.

    For a user without a home directory, as in a container, it is in the temporary folder.
    """
    if named := os.environ.get("GPT_TWINS_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "gpt-twins"
    try:
        return Path.home() / ".cache" / "gpt-twins"
    except RuntimeError:
        return _temporary_cache()


def _temporary_cache() -> Path:
    """Return a temporary folder. Raises `InputError` if other users can write to it."""
    folder = Path(tempfile.gettempdir()) / f"gpt-twins-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise InputError(
            f"{folder}: expected a folder that only this user can write to; "
            "name another folder for the cache with GPT_TWINS_CACHE"
        )
    return folder


def write_cached(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file to the cache atomically; an error of the disk is ignored."""
    with contextlib.suppress(OSError), atomic_file(path) as part, part.open("wb") as file:
        write(file)
