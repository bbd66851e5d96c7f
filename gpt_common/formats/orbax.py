"""Parameters of `gpt_flax` as an Orbax checkpoint, with their `config.json`."""

import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpt_common.checkpoint import Checkpoint
from gpt_common.errors import InputError, reason
from gpt_common.formats import flax_msgpack, twins
from gpt_common.formats.base import Format, has_files, write_config
from gpt_common.hf_config import read_config
from gpt_common.storage import MAX_JSON_BYTES, atomic_folder, require_file

PARAMS = "params"
MAX_COMPRESSION = 16  # bytes in memory per byte on the disk; 1.1 for trained weights
OS_ERROR = re.compile(r"os_error_code='(\d+)'")


def read(path: Path) -> Checkpoint:
    """Read a folder."""
    config = read_config(path / "config.json")
    tree = load(path / PARAMS)
    return Checkpoint(config, flax_msgpack.read_tree(tree, config, str(path)))


def load(path: Path) -> dict[str, Any]:
    """Return the tree of arrays in an Orbax folder. Raises `InputError` if it is damaged."""
    import jax
    import orbax.checkpoint as ocp

    size = size_of_files(path)
    with quietly():
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                metadata = checkpointer.metadata(path.resolve()).item_metadata
                if metadata is None:
                    raise ValueError("metadata that cannot be read")
                claimed = sum(map(claimed_bytes, jax.tree.leaves(metadata.tree)))
                if claimed > MAX_COMPRESSION * size:
                    raise ValueError(f"arrays of {claimed} bytes in {size} bytes of files")
                as_numpy = jax.tree.map(
                    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree
                )
                return checkpointer.restore(path.resolve(), restore_args=as_numpy)
        except Exception as error:  # Orbax and tensorstore each have their own types
            raise InputError(
                f"{path}: expected a whole Orbax checkpoint, got: {reason(error)}"
            ) from None


def size_of_files(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes.

    Raises `InputError` if one is not a regular file, or a metadata file is too large.
    """
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    for file in files:
        require_file(file)
        if file.name.startswith(("_", ".")) and file.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{file}: expected at most {MAX_JSON_BYTES} bytes of metadata")
    return sum(file.stat().st_size for file in files)


def claimed_bytes(leaf: Any) -> int:
    """Return the bytes of an array, or of a larger chunk of it, according to its metadata."""
    chunk = leaf.storage.chunk_shape if leaf.storage else ()
    return max(math.prod(leaf.shape), math.prod(chunk or ())) * np.dtype(leaf.dtype).itemsize


@contextmanager
def quietly() -> Iterator[None]:
    """Silence Orbax's log, and its threads that report a closed event loop after an error."""
    logger, before = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    logger.setLevel(logging.CRITICAL)
    try:
        yield
        sys.unraisablehook = before  # not after an error: the threads outlive this block
    finally:
        logger.setLevel(level)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a folder."""
    from flax.traverse_util import unflatten_dict

    flat = twins.padded_arrays(checkpoint, flax_msgpack.flax_name)
    with atomic_folder(path) as part:
        write_config(part / "config.json", checkpoint.config)
        save(part / PARAMS, unflatten_dict(flat, sep="/"))


def save(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree of arrays. Raises `OSError` if the disk is full, and removes the folder."""
    import orbax.checkpoint as ocp

    with quietly():
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                checkpointer.save(path.resolve(), tree)
        except ValueError as error:  # how tensorstore reports a full disk
            remove_for_good(path.parent)
            if not (code := OS_ERROR.search(str(error))):
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def remove_for_good(folder: Path) -> None:
    """Remove a folder until it stays away: Orbax's threads write a moment longer after an error."""
    for _ in range(40):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        if not folder.exists():
            return


DESCRIPTION = "folder with gpt_flax parameters as Orbax writes them"
FORMAT = Format("orbax", DESCRIPTION, has_files("config.json", f"{PARAMS}/_METADATA"), read, write)
