"""Make token shards of texts: `python -m gpt_common.prepare SOURCE FOLDER`."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gpt_common import cli
from gpt_common.documents import Documents, open_documents
from gpt_common.errors import InputError, brief, require_positive
from gpt_common.lock import FolderLock
from gpt_common.progress import plain_console
from gpt_common.shards import Manifest, Shard, ShardWriter, check_shards, read_manifest
from gpt_common.storage import clean_folder
from gpt_common.tokenizer import chunks, encode_documents

TokenArray = npt.NDArray[np.uint16]
Encoded = Generator[TokenArray, None, None]
Piece = tuple[bool, str]  # whether it begins a document, and its text

PIECE_CHARACTERS = 1 << 18  # a longer document is several pieces
TASK_CHARACTERS = 1 << 20  # a tenth of a second for a worker
MAX_SHARD_TOKENS = (1 << 31) - 1  # of an int32, llm.c's count


@dataclass(frozen=True)
class PrepareConfig:
    """Make token shards of texts, GPT-2's tokens with <|endoftext|> before each document.

    If it was interrupted, the same command continues, and the result is the same.

    python -m gpt_common.prepare texts shards --shard_tokens 1000000
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """fineweb-edu-10b, openwebtext, or a path: a .txt (one document), .jsonl or .parquet file, also
    as .gz or .zst, or a folder of these."""
    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """Where val_000000.bin, train_000001.bin, ... and manifest.json are written."""
    text_field: str = "text"
    """The field of a .jsonl line, or column of a .parquet file, that has the text."""
    shard_tokens: int = 100_000_000
    """Tokens in each shard; the first one is for validation."""
    workers: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: one for each processor)"),
    ] = None
    """Processes that encode text; the result does not depend on their number."""

    def __post_init__(self) -> None:
        require_positive("shard_tokens", self.shard_tokens)
        if self.shard_tokens > MAX_SHARD_TOKENS:
            raise InputError(
                f"shard_tokens must be at most {MAX_SHARD_TOKENS}, got {self.shard_tokens}"
            )
        if self.workers is not None:
            require_positive("workers", self.workers)


def prepare(config: PrepareConfig) -> Manifest:
    """Write the shards that are not in the folder yet, and return the manifest of all.

    Raises `InputError` if a document is invalid or the folder has something else.
    """
    documents = open_documents(config.source, config.text_field)
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    try:
        manifest = open_folder(folder, Manifest(documents.identity(), "gpt2", config.shard_tokens))
        if manifest.complete:
            return manifest
        return write_shards(folder, manifest, documents, config.workers or os.cpu_count() or 1)
    finally:
        lock.release()


def open_folder(folder: Path, new: Manifest) -> Manifest:
    """Return the manifest in a folder, or write the new one to an empty folder.

    Raises `InputError` if the folder has other files, or shards by other options.
    """
    clean_folder(folder)
    found = read_manifest(folder)
    if found is None:
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise InputError(f"{folder}: expected an empty folder, got one with {others[0]}")
    elif found.shards:
        check_settings(folder, found.settings, new.settings)
        check_shards(folder, found)
        return found
    new.write(folder)
    return new


def check_settings(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `InputError` if the shards in the folder were made from something else."""
    for name in before | now:
        if before.get(name) != now.get(name):
            raise InputError(
                f"{folder}: its shards are of {name} {brief(before.get(name))}, "
                f"got {brief(now.get(name))}: name another folder, or remove it"
            )


def write_shards(folder: Path, manifest: Manifest, documents: Documents, workers: int) -> Manifest:
    """Encode the documents from where the shards end, and append their tokens."""
    console = plain_console()

    def report(shard: Shard) -> None:
        console.print(f"{shard.name}: {shard.tokens:,} tokens, {shard.documents:,} documents")

    writer = ShardWriter(folder, manifest, report)
    with (
        progress_bar(console) as bar,
        closing(remaining_tokens(manifest, documents, workers)) as encoded,
    ):
        task = bar.add_task("", total=documents.total)
        for tokens in encoded:
            writer.write(tokens)
            bar.update(task, completed=documents.done, description=f"{writer.tokens:,} tokens")
    if not writer.tokens:
        raise InputError(f"{documents.source}: expected documents, got none")
    writer.finish()
    return writer.manifest


def progress_bar(console: Console) -> Progress:
    """Return a bar, which is shown on a terminal only."""
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def remaining_tokens(manifest: Manifest, documents: Documents, workers: int) -> Encoded:
    """Yield the tokens that come after those in the shards.

    The last document in the shards is encoded again, as its end may be missing.
    """
    surplus = manifest.last_document_tokens
    with (
        closing(documents.read(skip=max(0, manifest.documents - 1))) as texts,
        closing(encode(group(pieces(texts)), workers)) as encoded,
    ):
        for tokens in encoded:
            yield tokens[surplus:]
            surplus = max(0, surplus - len(tokens))


def pieces(documents: Iterable[str]) -> Iterator[Piece]:
    """Yield documents in pieces that can be encoded separately."""
    for text in documents:
        begins = True
        for piece in chunks(text, PIECE_CHARACTERS):
            yield begins, piece
            begins = False
        if begins:
            yield begins, ""


def group(parts: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Yield lists of pieces, each long enough that a worker has something to do."""
    task: list[Piece] = []
    size = 0
    for part in parts:
        task.append(part)
        size += len(part[1]) + 1
        if size >= TASK_CHARACTERS:
            yield task
            task, size = [], 0
    if task:
        yield task


def encode(tasks: Iterable[list[Piece]], workers: int) -> Encoded:
    """Yield the tokens of each task, in order, encoded by so many processes."""
    if workers == 1:
        yield from map(encode_documents, tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=start_worker)
    pending: deque[Future[TokenArray]] = deque()
    try:
        for task in tasks:
            with ctrl_c_blocked():
                pending.append(pool.submit(encode_documents, task))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "a worker was killed, perhaps as memory ran out: run it again with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def ctrl_c_blocked() -> Iterator[None]:
    """Deliver Ctrl-C after the context, and never to processes started in it, which inherit this.

    A terminal sends it to the workers, too, each of which would print a traceback.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def start_worker() -> None:
    """Make this process end with its parent, however that ends."""
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the end of the parent process, then end this one."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def main() -> None:
    """Run the command line."""
    config = cli.parse(PrepareConfig, "gpt_common.prepare")
    manifest = prepare(config)
    print(
        f"{config.folder}: {manifest.tokens:,} tokens of {manifest.documents:,} documents "
        f"in {len(manifest.shards)} shards"
    )


if __name__ == "__main__":
    cli.run(main, "--shard_tokens, --workers or the documents")
