"""`--dry_run`: what a run would take, as a table, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.table import Table

from gpt_common import cli
from gpt_common.checkpoint import Checkpoint, read_checkpoint
from gpt_common.config import Dtype, GPTConfig, TrainConfig
from gpt_common.distributed import mesh_shape
from gpt_common.errors import InputError, brief
from gpt_common.estimate import (
    StepEstimate,
    Target,
    checkpoint_bytes,
    estimate_step,
    flops_per_step,
)
from gpt_common.flops import DATASHEETS, datasheet_peak
from gpt_common.progress import table_console
from gpt_common.run import MEMORY_OPTIONS
from gpt_common.weights import num_parameters

TOKEN_BYTES = 2  # in a shard


def dry_run(
    config: TrainConfig, framework: str, target: Target, read_weights: Callable[[str], Checkpoint]
) -> None:
    """Print what a run would take. Raises `InputError` if it does not fit the device."""
    model = planned_model(config, read_weights)
    step = estimate_step(model, config, target)
    device, dtype = target.name or target.kind, config.runtime.dtype
    title = cli.summary(framework, device, dtype, num_parameters(model))
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="none")
    table.add_column("each device, at the peak of a step")
    table.add_column(justify="right", no_wrap=True)
    for row in (*memory_rows(step, target), *time_rows(model, config, step, target)):
        table.add_row(*row)
    table_console().print(table)
    if target.available is not None and step.memory > target.available:
        raise InputError(
            f"a step takes {gigabytes(step.memory)} of memory, {gigabytes(target.available)} are "
            f"free: make {MEMORY_OPTIONS} smaller"
        )


def planned_gpus(config: TrainConfig) -> tuple[Dtype, tuple[int, int], str]:
    """Return the dtype, the mesh and the name of the GPUs of `--gpus`; auto is bfloat16.

    Raises `InputError` unless it is a dry run, on GPUs with a known data sheet.
    """
    if not config.output.dry_run:
        raise InputError("gpus: expected --dry_run with it: a run takes the devices that are here")
    count, name = config.parallel.gpus or (1, "")
    if datasheet_peak(name, "bfloat16") is None:
        known = ", ".join(gpu.removesuffix("$") for gpu in DATASHEETS)
        raise InputError(f"gpus: expected one of {known}, got {brief(name)}")
    dtype = config.runtime.dtype
    return "bfloat16" if dtype == "auto" else dtype, mesh_shape(config, count), name


def planned_model(config: TrainConfig, read_weights: Callable[[str], Checkpoint]) -> GPTConfig:
    """Return the model of a run, without its weights in memory."""
    if config.output.resume is not None:
        return read_checkpoint(config.output.resume).config
    if config.model.init != "scratch":
        return read_weights(config.model.init).config
    return config.model.gpt_config()


def memory_rows(step: StepEstimate, target: Target) -> list[tuple[str, str]]:
    """Return the memory of a device at the peak of a step."""
    parts = ("parameters", "gradients", "moments", "activations", "logits")
    rows = [(name, gigabytes(getattr(step, name))) for name in parts]
    free = target.available
    if target.footprint.whole_program:
        rows.append(("at least, if XLA recomputes", gigabytes(step.at_least)))
    return [
        *rows,
        ("all", gigabytes(step.memory)),
        ("free", "unknown" if free is None else gigabytes(free)),
    ]


def time_rows(
    model: GPTConfig, config: TrainConfig, step: StepEstimate, target: Target
) -> list[tuple[str, str]]:
    """Return what the devices do in a step and in the whole run."""
    data, steps, (copies, parts) = config.data, config.optimizer.steps, target.mesh
    tokens = config.grad_accum * data.batch_size * data.seq_len
    return [
        ("sent in a step", gigabytes(step.sent)),
        ("of it along data", gigabytes(step.sent_data)),
        ("devices (data x fsdp)", f"{copies} x {parts}"),
        ("grad_accum", f"{config.grad_accum:,}"),
        ("tokens of a step", f"{tokens:,}"),
        ("tokens of all steps", f"{steps * tokens:,}"),
        ("their bytes as uint16", gigabytes(TOKEN_BYTES * steps * tokens)),
        ("a checkpoint", gigabytes(checkpoint_bytes(model, config))),
        ("FLOPs of a step", f"{flops_per_step(model, config):.3g}"),
        *hours_rows(target.seconds_at_peak(model, config), config),
    ]


def hours_rows(seconds_at_peak: float | None, config: TrainConfig) -> list[tuple[str, str]]:
    """Return the time of a step and of the run, at the share of the peak that `--mfu` names."""
    mfu = config.output.mfu
    if seconds_at_peak is None:
        return [("hours", "unknown without the device's data sheet")]
    seconds = seconds_at_peak / mfu
    return [
        ("seconds of a step", f"{seconds:.3f}"),
        (
            f"hours at {mfu:.0%} of the data sheet's FLOP/s",
            f"{config.optimizer.steps * seconds / 3600:,.1f}",
        ),
    ]


def gigabytes(size: float) -> str:
    """Return a number of bytes in GB of 10^9 bytes."""
    return f"{size / 1e9:,.2f} GB"
