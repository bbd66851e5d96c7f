"""Convert a GPT-2 checkpoint: `python -m convert SOURCE DESTINATION`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import ml_dtypes
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from convert.destination import check_destination
from convert.publish import check_repository, publish, repository_of, upload_format
from gpt_common import cli
from gpt_common.checkpoint import Checkpoint
from gpt_common.errors import InputError
from gpt_common.formats import registry
from gpt_common.formats.base import Format
from gpt_common.progress import table_console
from gpt_common.tokenizer import VOCAB_SIZE
from gpt_common.weights import EMBEDDING, Weights, num_parameters

PADDED = 50304  # GPT-2's 50257 rounded up, as nanoGPT and build-nanogpt train it
DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class ConvertConfig:
    """Convert a GPT-2 checkpoint, bit for bit. The format of the source is detected.

    python -m convert gpt2 gpt2.bin --to llmc
    """

    source: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE", help_behavior_hint="")
    ] = ""
    """A file, a folder, a run, or a name on the Hugging Face Hub such as gpt2."""
    destination: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="DESTINATION", help_behavior_hint="")
    ] = ""
    """The file or folder to write, or hf://USER/NAME, to upload to the Hugging Face Hub."""
    to: Annotated[
        str | None, tyro.conf.arg(metavar="FORMAT", help_behavior_hint="(default: by the suffix)")
    ] = None
    """The format to write; --list shows them all."""
    dtype: Annotated[
        Literal["float64", "float32", "float16", "bfloat16", None],
        tyro.conf.arg(
            metavar="{float64,float32,float16,bfloat16}",
            help_behavior_hint="(default: no cast)",
        ),
    ] = None
    """Cast the weights."""
    vocab_size: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all)")
    ] = None
    """Keep only the first rows of the embedding: 50257 cuts those that pad it to 50304."""
    overwrite: bool = False
    """Replace the model at the destination."""
    private: bool = False
    """Create a private repository on the Hub."""
    weights_only: bool = False
    """Leave out the state of the run: moments, step, options."""
    list: bool = False
    """List the formats."""


def convert(config: ConvertConfig, console: Console) -> None:
    """Convert, and print a summary. Raises `InputError` before anything is written."""
    started = time.perf_counter()
    target, write = choose_destination(config)
    with console.status(f"reading {config.source}"):
        checkpoint, source = registry.read(config.source)
    notes = [f"{source.name} -> {target.name}", *checkpoint.notes]
    checkpoint, changes = apply_options(checkpoint, target, config)
    with console.status(f"writing {config.destination}"):
        write(checkpoint)
    for note in notes + changes:
        console.print(note)
    console.print(summary(checkpoint, time.perf_counter() - started))


def choose_destination(config: ConvertConfig) -> tuple[Format, Callable[[Checkpoint], None]]:
    """Return the format to write, and a function that writes or uploads a checkpoint in it.

    Raises `InputError` if the format is unknown or the destination would lose anything.
    """
    if repository := repository_of(config.destination):
        target = upload_format(config.to)
        check_repository(repository, config.overwrite)
        return target, partial(publish, repository, target, config.overwrite, config.private)
    if config.private:
        raise InputError(f"private: expected hf://USER/NAME with it, got {config.destination}")
    destination = Path(config.destination)
    target = registry.destination_format(destination, config.to)
    check_destination(destination, target, Path(config.source), config.overwrite)
    assert target.write is not None  # checked by destination_format
    return target, partial(target.write, destination)


def apply_options(
    checkpoint: Checkpoint, target: Format, config: ConvertConfig
) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint as the target is to hold it, and a note on each change.

    Raises `InputError` as `cast` and `cut_vocabulary` do.
    """
    notes = []
    if config.dtype:
        notes.append(f"cast to {config.dtype}")
        checkpoint = cast(checkpoint, DTYPES[config.dtype])
    if config.vocab_size is not None:
        checkpoint = cut_vocabulary(checkpoint, config.vocab_size)
        notes.append(f"cut to the first {config.vocab_size} tokens of the vocabulary")
    elif checkpoint.config.vocab_size == PADDED:
        notes.append(f"{PADDED} tokens, {PADDED - VOCAB_SIZE} of them padding: kept (--vocab_size)")
    if checkpoint.training and (config.weights_only or not target.keeps_training):
        why = "" if config.weights_only else f"{target.name} has no place for "
        notes.append(f"{why}the state of the run: left out")
        checkpoint = replace(checkpoint, training=None)
    if target.needs_biases and not checkpoint.config.bias:
        notes.append(f"{target.name} has no models without biases: writing zeros for them")
    return checkpoint, notes


def cast(checkpoint: Checkpoint, dtype: np.dtype) -> Checkpoint:
    """Return a checkpoint with its weights in another dtype; the moments stay as they are.

    Raises `InputError` if a weight overflows in `dtype`.
    """
    weights: Weights = {}
    for name, weight in checkpoint.weights.items():
        with np.errstate(over="ignore"):
            weights[name] = weight.astype(dtype)
        if (np.isinf(weights[name]) & ~np.isinf(weight)).any():
            raise InputError(f"{name}: expected weights that {dtype} can hold, got larger ones")
    return replace(checkpoint, weights=weights)


def cut_vocabulary(checkpoint: Checkpoint, vocab_size: int) -> Checkpoint:
    """Return a checkpoint with only the first tokens, in the weights and in both moments.

    Raises `InputError` if it has fewer tokens.
    """
    if not 0 < vocab_size <= checkpoint.config.vocab_size:
        raise InputError(
            f"vocab_size must be 1 to {checkpoint.config.vocab_size}, got {vocab_size}"
        )

    def cut(weights: Weights) -> Weights:
        return weights | {EMBEDDING: weights[EMBEDDING][:vocab_size]}

    training = checkpoint.training and replace(
        checkpoint.training,
        exp_avg=cut(checkpoint.training.exp_avg),
        exp_avg_sq=cut(checkpoint.training.exp_avg_sq),
    )
    shape = replace(checkpoint.config, vocab_size=vocab_size)
    weights = cut(checkpoint.weights)
    return replace(checkpoint, config=shape, weights=weights, training=training)


def summary(checkpoint: Checkpoint, seconds: float) -> Table:
    """Return a table of the size and dtype of the converted checkpoint."""
    weights = checkpoint.weights.values()
    table = Table("tensors", "parameters", "bytes", "dtype", "seconds", box=None)
    table.add_row(
        f"{len(weights)}",
        f"{num_parameters(checkpoint.config):,}",
        f"{sum(w.nbytes for w in weights):,}",
        f"{next(iter(weights)).dtype}",
        f"{seconds:.1f}",
    )
    return table


def list_formats() -> Table:
    """Return a table of the formats."""
    table = Table("format", "read", "write", "what it is", box=None)
    for form in registry.FORMATS.values():
        table.add_row(form.name, "yes", "yes" if form.write else "no", form.description)
    return table


def main() -> None:
    """Run the command line."""
    config = cli.parse(ConvertConfig, "convert")
    console = table_console()
    if config == ConvertConfig(list=True):
        console.print(list_formats())
    elif config.list:
        raise InputError("list: expected no other argument with it")
    elif not config.source or not config.destination:
        raise InputError("expected SOURCE and DESTINATION (--help lists the flags)")
    else:
        convert(config, console)


if __name__ == "__main__":
    cli.run(main)
