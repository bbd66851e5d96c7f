"""Shards: files of a fixed number of tokens, the first for validation, and their manifest.

A shard has the header of llm.c's token files. So the loader sees a truncated file by its size, and
llm.c and modded-nanogpt read the folder as it is.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast, get_origin

import numpy as np
import numpy.typing as npt

from gpt_common.errors import InputError, brief, reason
from gpt_common.storage import atomic_file, read_json
from gpt_common.token_files import llmc_header, open_tokens
from gpt_common.tokenizer import END_OF_TEXT_TOKEN

MANIFEST = "manifest.json"
FORMAT = "gpt-twins-shards"


@dataclass(frozen=True)
class Shard:
    """A file of a manifest. `documents` begin in it, `tokens` and the hash are of all its bytes."""

    name: str
    tokens: int
    documents: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What the shards of a folder were made from, and what they hold so far.

    `last_document_tokens` of the last document that begins in them are in them.
    """

    source: dict[str, Any]
    tokenizer: str
    shard_tokens: int
    complete: bool = False
    last_document_tokens: int = 0
    shards: tuple[Shard, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the contents of the shards."""
        return {**self.source, "tokenizer": self.tokenizer, "shard_tokens": self.shard_tokens}

    @property
    def documents(self) -> int:
        """The number of documents that begin in the shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def tokens(self) -> int:
        """The number of tokens in the shards."""
        return sum(shard.tokens for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        totals = {"format": FORMAT, "documents": self.documents, "tokens": self.tokens}
        with atomic_file(folder / MANIFEST) as part:
            part.write_text(json.dumps(totals | asdict(self), indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder, None if it has none of ours.

    Raises `InputError` if it is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    content = read_json(path)
    if content.pop("format", None) != FORMAT:
        return None
    totals = {name: content.pop(name, None) for name in ("documents", "tokens")}
    try:
        shards = tuple(Shard(**shard) for shard in content.pop("shards"))
        manifest = Manifest(**content, shards=shards)
        _check_types(manifest)
        for shard in shards:
            _check_types(shard)
        whole = totals == {name: getattr(manifest, name) for name in totals}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a manifest of shards, got: {reason(error)}") from None
    if not whole:
        raise InputError(f"{path}: expected the sums of its shards, got {totals}")
    return manifest


def _check_types(item: Manifest | Shard) -> None:
    for field in fields(item):
        value, expected = getattr(item, field.name), get_origin(field.type) or field.type
        if not isinstance(value, cast(type, expected)):
            raise TypeError(f"{field.name} is {brief(value)}")


def check_folder(folder: Path) -> None:
    """Raise `InputError` if the folder has a manifest, but not all of its shards."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    if not manifest.complete:
        raise InputError(
            f"{folder}: expected all shards, got {len(manifest.shards)} so far: "
            "run gpt_common.prepare again to continue"
        )
    check_shards(folder, manifest)


def check_shards(folder: Path, manifest: Manifest) -> None:
    """Raise `InputError` unless all shards of the manifest are in the folder, of its lengths."""
    for shard in manifest.shards:
        path = folder / shard.name
        if (found := len(open_tokens(path))) != shard.tokens:
            raise InputError(f"{path}: expected {shard.tokens} tokens, got {found}")


class ShardWriter:
    """Appends tokens to the shards of a folder: each is written when it is full, then the manifest.

    A document begins with `<|endoftext|>`, and that token occurs nowhere else. A document and
    its tokens may be in two shards. `report` is called with each shard.
    """

    def __init__(self, folder: Path, manifest: Manifest, report: Callable[[Shard], object]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.report = report
        self.buffer = np.empty(manifest.shard_tokens, np.uint16)
        self.used = 0

    @property
    def tokens(self) -> int:
        """The number of tokens so far."""
        return self.manifest.tokens + self.used

    def write(self, tokens: npt.NDArray[np.uint16]) -> None:
        """Append tokens."""
        while len(tokens):
            part, tokens = np.split(tokens, [len(self.buffer) - self.used])
            self.buffer[self.used : self.used + len(part)] = part
            self.used += len(part)
            if self.used == len(self.buffer):
                self._write_shard(complete=False)

    def finish(self) -> None:
        """Write what is left as the last shard. Raises `InputError` if all is for validation."""
        if self.tokens <= self.manifest.shard_tokens:
            raise InputError(
                f"{self.folder}: expected more than {self.manifest.shard_tokens:,} tokens, as the "
                f"first shard is for validation, got {self.tokens:,}: "
                f"try --shard_tokens {max(1, self.tokens // 10)}"
            )
        if self.used:
            self._write_shard(complete=True)
        else:
            self._write_manifest(complete=True)

    def _write_shard(self, complete: bool) -> None:
        number, tokens = len(self.manifest.shards), self.buffer[: self.used]
        name = f"{'train' if number else 'val'}_{number:06d}.bin"
        header = llmc_header(len(tokens))
        with atomic_file(self.folder / name) as part, part.open("wb") as file:
            file.write(header)
            file.write(tokens.data)
        digest = hashlib.sha256(header)
        digest.update(tokens.data)
        starts = np.flatnonzero(tokens == END_OF_TEXT_TOKEN)
        last_start = int(starts[-1]) if len(starts) else -self.manifest.last_document_tokens
        shard = Shard(name, len(tokens), len(starts), digest.hexdigest())
        self._write_manifest(
            complete=complete,
            last_document_tokens=len(tokens) - last_start,
            shards=(*self.manifest.shards, shard),
        )
        self.used = 0
        self.report(shard)

    def _write_manifest(self, **changes: Any) -> None:
        self.manifest = replace(self.manifest, **changes)
        self.manifest.write(self.folder)
