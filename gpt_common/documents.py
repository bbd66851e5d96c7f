"""Documents to prepare, in a fixed order: texts of files, or a data set of the Hugging Face Hub."""

import gzip
import hashlib
import io
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from gpt_common.errors import InputError, brief, reason
from gpt_common.storage import require_file
from gpt_common.texts import decode_utf8

Texts = Generator[str, None, None]  # to be closed, which closes the file that is open

COMPRESSED = (".gz", ".zst")
ROWS = 1024  # of a parquet file in memory at a time


@dataclass(frozen=True)
class HubDataset:
    """A data set on the Hub and the number of its documents, which the progress bar shows."""

    path: str
    name: str | None
    revision: str | None
    documents: int


HUB = {
    "fineweb-edu-10b": HubDataset("HuggingFaceFW/fineweb-edu", "sample-10BT", None, 9_672_101),
    # Its own revision is a script, which `datasets` no longer runs; this is the Hub's conversion.
    "openwebtext": HubDataset("Skylion007/openwebtext", None, "refs/convert/parquet", 8_013_769),
}


class Documents(Protocol):
    """A source of documents. `done` of `total` bytes or documents have been read."""

    source: str
    total: int
    done: int

    def identity(self) -> dict[str, Any]:
        """Return what a resumed preparation must find again, as JSON values."""

    def read(self, skip: int) -> Texts:
        """Yield the documents after the first `skip`. Raises `InputError` for an invalid one."""


def open_documents(source: str, field: str) -> Documents:
    """Return the documents of a name in `HUB`, a file or a folder; `field` of a row is the text.

    Raises `InputError` if there are no such files.
    """
    return HubDocuments(source, field) if source in HUB else FileDocuments(source, field)


class HubDocuments:
    """The documents of a data set on the Hub, which are downloaded while they are read."""

    def __init__(self, source: str, field: str) -> None:
        self.source = source
        self.field = field
        self.total = HUB[source].documents
        self.done = 0

    def identity(self) -> dict[str, Any]:
        """Return the name of the data set and of its field."""
        hub = HUB[self.source]
        return {"path": hub.path, "name": hub.name, "field": self.field}

    def read(self, skip: int) -> Texts:
        """Yield the documents after the first `skip`, which are downloaded, too."""
        import datasets

        hub = HUB[self.source]
        try:
            rows = datasets.load_dataset(
                hub.path, hub.name, split="train", revision=hub.revision, streaming=True
            )
            self.done = skip
            for row in rows.select_columns([self.field]).skip(skip):
                self.done += 1
                yield text_of(row, self.field, f"{self.source}: document {self.done}")
        except (InputError, MemoryError):
            raise
        except Exception as error:  # the libraries of a download raise almost anything
            raise InputError(f"{self.source}: {reason(error)}") from None


class FileDocuments:
    """The documents of a file, or of all files in a folder and its subfolders, sorted by path."""

    def __init__(self, source: str, field: str) -> None:
        self.source = source
        self.path = Path(source)
        self.field = field
        self.files = find_files(self.path)
        self.total = sum(file.stat().st_size for file in self.files)
        self.done = 0

    def identity(self) -> dict[str, Any]:
        """Return the names of the source and the field, and a hash of the names and sizes."""
        files = [
            (file.relative_to(self.path).as_posix(), file.stat().st_size) for file in self.files
        ]
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        names = {"path": self.path.name, "field": self.field}
        return names | {"files": len(files), "bytes": self.total, "listing_sha256": digest}

    def read(self, skip: int) -> Texts:
        """Yield the documents after the first `skip`, which are read, too."""
        with closing(self._read_all()) as texts:
            yield from islice(texts, skip, None)

    def _read_all(self) -> Texts:
        before = 0
        for path in self.files:
            require_file(path)
            try:
                with path.open("rb") as file:
                    for text in read_file(path, file, self.field):
                        self.done = before + file.tell()
                        yield text
                before += path.stat().st_size
            except (InputError, MemoryError, ModuleNotFoundError):
                raise
            except Exception as error:  # for a damaged file the libraries raise almost anything
                raise InputError(f"{path}: {reason(error)}") from None


def find_files(source: Path) -> list[Path]:
    """Return a file, or those in a folder whose format is known. Raises `InputError` for none."""
    if not source.exists():
        raise InputError(
            f"{source}: no such file or folder (a source is {', '.join(HUB)} or a path)"
        )
    found = sorted(source.rglob("*")) if source.is_dir() else [source]
    files = [path for path in found if kind_of(path) and not is_hidden(path.relative_to(source))]
    if not files:
        kinds = f"{', '.join(READERS)} files ({' and '.join(COMPRESSED)} too)"
        raise InputError(f"{source}: expected {kinds}, got none")
    return files


def is_hidden(path: Path) -> bool:
    """Whether a relative path, or a folder in it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def kind_of(path: Path) -> str | None:
    """Return the suffix that states the format, None if it is not known."""
    kind = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    return kind if kind in READERS else None


def read_file(path: Path, file: BinaryIO, field: str) -> Iterator[str]:
    """Yield the documents of an open file. Raises `InputError` for an invalid one."""
    kind = kind_of(path)
    assert kind is not None  # as find_files has chosen it
    return READERS[kind](path, decompressed(path, file), field)


def decompressed(path: Path, file: BinaryIO) -> BinaryIO:
    """Return a file without the compression that its suffix states."""
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=file))
    if path.suffix == ".zst":
        import pyarrow  # zstandard's reader takes a truncated file for a shorter one

        return io.BufferedReader(pyarrow.input_stream(file, compression="zstd"))
    return file


def read_text(path: Path, file: BinaryIO, field: str) -> Iterator[str]:
    """Yield the one document of a `.txt` file."""
    content = file.read()
    if not content:
        raise InputError(f"{path}: expected text, got an empty file")
    yield decode_utf8(content, str(path))


def read_jsonl(path: Path, file: BinaryIO, field: str) -> Iterator[str]:
    """Yield a document for each line of a `.jsonl` file."""
    for number, line in enumerate(file, 1):
        where = f"{path}: line {number}"
        text = decode_utf8(line, where)
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: expected JSON, got: {reason(error)}") from None
        yield text_of(row, field, where)


def read_parquet(path: Path, file: BinaryIO, field: str) -> Iterator[str]:
    """Yield a document for each row of a `.parquet` file."""
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file)
    if field not in (names := table.schema_arrow.names):
        raise InputError(f"{path}: expected a column {brief(field)}, got {', '.join(names)}")
    number = 0
    for rows in table.iter_batches(ROWS, columns=[field]):
        for row in rows.to_pylist():
            number += 1
            yield text_of(row, field, f"{path}: row {number}")


def text_of(row: Any, field: str, where: str) -> str:
    """Return the text in a row. Raises `InputError`, which begins with `where`, if it has none."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object, got {brief(row)}")
    if field not in row:
        raise InputError(f"{where}: expected a field {brief(field)}, got {brief(', '.join(row))}")
    if not isinstance(text := row[field], str):
        raise InputError(f"{where}: expected text in {brief(field)}, got {brief(text)}")
    return text


READERS = {".txt": read_text, ".jsonl": read_jsonl, ".parquet": read_parquet}
