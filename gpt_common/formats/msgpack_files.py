"""Flax's msgpack files, read with a limit on the number of objects."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpt_common.errors import MAX_SHOWN, InputError, brief, printable, reason
from gpt_common.storage import first_bytes, require_file
from gpt_common.weights import Array

# The first bytes of non-empty msgpack maps; no other format here begins with one of them.
FIRST_BYTES = {*range(0x81, 0x90), 0xDE, 0xDF}
MAX_OBJECTS = 200_000  # per file; gpt2-xl has 5,000
MAX_LEVELS = 8  # of names; the twins' trees have 4
MAX_DIMENSIONS = 64  # numpy's limit


def is_msgpack_file(path: Path) -> bool:
    """Whether a file begins like a msgpack map."""
    return path.is_file() and first_bytes(path, 1)[:1] in {bytes([b]) for b in FIRST_BYTES}


def flatten(tree: dict[Any, Any], source: str) -> dict[str, Array]:
    """Return the arrays of a tree by their paths. Raises `InputError` for anything else in it."""
    flat: dict[str, Array] = {}

    def walk(branch: dict[Any, Any], parents: tuple[str, ...]) -> None:
        for name, value in branch.items():
            if not isinstance(name, str) or len(name) > MAX_SHOWN:
                raise InputError(f"{source}: expected short names that are text, got {brief(name)}")
            if len(parents) == MAX_LEVELS:
                raise InputError(f"{source}: expected at most {MAX_LEVELS} levels of names")
            path = (*parents, name)
            if isinstance(value, dict):
                walk(value, path)
            elif isinstance(value, np.ndarray):
                flat["/".join(path)] = value
            else:
                kind, leaf = type(value).__name__, printable("/".join(path))
                raise InputError(f"{source}: {leaf}: expected an array, got {kind}")

    walk(tree, ())
    return flat


def load(path: Path) -> dict[str, Any]:
    """Return the tree in a msgpack file. Raises `InputError` if it is damaged."""
    from flax.serialization import msgpack_restore

    require_file(path)
    content = path.read_bytes()
    try:
        require_few_objects(content)
        tree = msgpack_restore(content)
    except Exception as error:  # msgpack, numpy and Flax each have their own
        raise InputError(f"{path}: expected a whole msgpack file, got: {reason(error)}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected a tree of arrays, got {type(tree).__name__}")
    return tree


def require_few_objects(content: bytes) -> None:
    """Raise `ValueError` for more maps and lists than a model has: each takes 50 times its bytes.

    It counts without building objects. Arrays are msgpacks nested in that of the tree.
    """
    import msgpack

    count = 0

    def count_entries(entries: list) -> None:
        nonlocal count
        count += 1 + len(entries)
        if count > MAX_OBJECTS:
            raise ValueError(f"more than {MAX_OBJECTS} objects")

    def count_nested(code: int, data: bytes) -> None:
        unpack(data, raw=True)

    counters = {"object_pairs_hook": count_entries, "list_hook": count_entries}
    limits = {"max_map_len": MAX_OBJECTS, "max_array_len": MAX_DIMENSIONS, "strict_map_key": False}
    unpack = partial(msgpack.unpackb, ext_hook=count_nested, **counters, **limits)
    unpack(content)


def save(path: Path, flat: dict[str, Array]) -> None:
    """Write arrays, given by their paths, as a msgpack tree."""
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    contiguous = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    path.write_bytes(msgpack_serialize(unflatten_dict(contiguous, sep="/"), in_place=True))
