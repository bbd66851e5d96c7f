"""Parameters of `gpt_flax` as an Orbax checkpoint, with their configuration in the same folder."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from convert.formats import flax_msgpack
from convert.formats.base import Format, read_config, write_config
from gpt_common.checkpoint import Checkpoint
from gpt_common.errors import InputError
from gpt_common.storage import atomic_folder

PARAMS = "params"


def detect(path: Path) -> bool:
    """Whether a folder has a configuration and Orbax's `params` folder."""
    return (path / "config.json").is_file() and (path / PARAMS / "_METADATA").is_file()


def read(path: Path) -> Checkpoint:
    """Read a folder."""
    config = read_config(path / "config.json")
    tree = load(path / PARAMS)
    return Checkpoint(config, flax_msgpack.read_tree(tree, config, str(path)))


def load(path: Path) -> dict[str, Any]:
    """Return the tree of arrays in an Orbax folder. Raises `InputError` where it is damaged."""
    import jax
    import orbax.checkpoint as ocp

    with quietly():
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                metadata = checkpointer.metadata(path.resolve()).item_metadata
                if metadata is None:
                    raise ValueError("metadata that cannot be read")
                as_numpy = jax.tree.map(
                    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree
                )
                return checkpointer.restore(path.resolve(), restore_args=as_numpy)
        except Exception as error:  # Orbax and tensorstore each have their own
            reason = (str(error) or repr(error)).splitlines()[0]
            raise InputError(f"{path}: expected a whole Orbax checkpoint, got: {reason}") from None


@contextmanager
def quietly() -> Iterator[None]:
    """Keep to ourselves what Orbax logs about a damaged checkpoint: the error says it in one line.

    Its threads go on for a while, and find the event loop of the failed read closed.
    """
    logger, before = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    logger.setLevel(logging.CRITICAL)
    try:
        yield
        sys.unraisablehook = before  # after an error it stays: the threads outlive this block
    finally:
        logger.setLevel(level)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a folder."""
    import orbax.checkpoint as ocp
    from flax.traverse_util import unflatten_dict

    with atomic_folder(path) as part:
        write_config(part / "config.json", checkpoint.config)
        tree = unflatten_dict(flax_msgpack.flat_parameters(checkpoint), sep="/")
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save((part / PARAMS).resolve(), tree)


FORMAT = Format(
    "orbax", "folder with gpt_flax parameters as Orbax writes them", detect, read, write
)
