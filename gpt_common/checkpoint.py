"""The checkpoint: a Hugging Face model folder with the state of training.

    config.json               Hugging Face's GPT-2 configuration
    model.safetensors         the weights (see gpt_common.weights)
    optimizer.safetensors     AdamW's moments, as exp_avg.NAME and exp_avg_sq.NAME
    training_state.json       step, position in the data, every option, versions, checksums
    vocab.json, merges.txt, tokenizer_config.json (if the vocabulary is GPT-2's)

Either twin resumes from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_common import tokenizer
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError, brief
from gpt_common.hf_config import config_to_hf, read_config
from gpt_common.loss_scale import LossScale, read_loss_scale
from gpt_common.run_folder import (
    CONFIG,
    MODEL,
    OPTIMIZER,
    STATE,
    checkpoint_folders,
    run_checkpoints,
)
from gpt_common.storage import (
    atomic_folder,
    checksum,
    read_json,
    read_safetensors,
    write_safetensors,
)
from gpt_common.weights import Weights, check_shapes, match_weights, weight_shapes, with_zero_biases

FORMAT_VERSION = 1
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainingState:
    """What resuming a run needs besides the weights: moments, step, data position, options.

    `optimizer_step` is AdamW's own step count; None means that it equals `step`. `fingerprint`
    identifies the training data; it is empty if the data is unknown. `source` holds the other
    entries of another program's file, by the format's name, to be written back. `loss_scale` is
    None except for float16.
    """

    step: int
    exp_avg: Weights
    exp_avg_sq: Weights
    loader: dict[str, int]
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    optimizer_step: int | None = None
    source: dict[str, Any] = field(default_factory=dict)
    loss_scale: LossScale | None = None

    @property
    def adamw_step(self) -> int:
        """AdamW's own step count."""
        return self.step if self.optimizer_step is None else self.optimizer_step


@dataclass(frozen=True)
class Checkpoint:
    """A model and, if it was saved by a run, its training state.

    `notes` are sentences for the user, which the caller prints.
    """

    config: GPTConfig
    weights: Weights
    training: TrainingState | None = None
    notes: tuple[str, ...] = ()


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder atomically."""
    with atomic_folder(folder) as part:
        write_config_and_tokenizer(part, checkpoint.config)
        weights = with_zero_biases(checkpoint.weights, checkpoint.config)  # for transformers
        write_safetensors(part / MODEL, weights)
        if state := checkpoint.training:
            moments = {f"{m}.{name}": w for m in MOMENTS for name, w in getattr(state, m).items()}
            write_safetensors(part / OPTIMIZER, moments)
            fields = state_fields(state)
            fields["format_version"] = FORMAT_VERSION
            fields["checksums"] = {n: checksum(part / n) for n in (CONFIG, MODEL, OPTIMIZER)}
            (part / STATE).write_text(_json(fields))


def write_config_and_tokenizer(folder: Path, config: GPTConfig) -> None:
    """Write the configuration and, if the vocabulary is GPT-2's, the tokenizer."""
    (folder / CONFIG).write_text(_json(config_to_hf(config)))
    if config.vocab_size >= tokenizer.VOCAB_SIZE:
        for name, content in tokenizer.tokenizer_files(config.block_size).items():
            (folder / name).write_bytes(content)


def read_checkpoint(path: str | Path, with_training: bool = True) -> Checkpoint:
    """Read a checkpoint folder, or the newest undamaged checkpoint of a run.

    The notes name the damaged checkpoints that were skipped. Raises `InputError` if there is no
    undamaged checkpoint.
    """
    errors: list[str] = []
    for folder in checkpoint_folders(Path(path)):
        try:
            checkpoint = _read_folder(folder, with_training)
        except (InputError, OSError) as error:
            errors.append(str(error))
        else:
            notes = tuple(f"skipped a damaged checkpoint: {error}" for error in errors)
            return dataclasses.replace(checkpoint, notes=notes + checkpoint.notes)
    raise InputError(errors[0] + _undamaged_hint(folder))


def _undamaged_hint(damaged: Path) -> str:
    for folder in reversed(run_checkpoints(damaged.parent)):
        with contextlib.suppress(InputError, OSError):
            _read_folder(folder, with_training=True)
            return f"; {folder} is not damaged"
    return ""


def read_options(path: str | Path) -> tuple[Path, dict[str, Any] | None]:
    """Return a checkpoint's folder and the options of its run, None if it has weights only.

    For a run it is the newest checkpoint whose options can be read.
    """
    *newer, oldest = checkpoint_folders(Path(path))
    for folder in newer:
        with contextlib.suppress(InputError, OSError):
            return folder, _options(folder)
    return oldest, _options(oldest)


def _options(folder: Path) -> dict[str, Any] | None:
    state = _read_state(folder)
    return None if state is None else _object(state, "options", str(folder / STATE))


def _read_folder(folder: Path, with_training: bool) -> Checkpoint:
    config = read_config(folder / CONFIG)
    source = folder / MODEL
    weights = match_weights(read_safetensors(source), config, str(source))
    state = _read_state(folder)
    if state is None:
        return Checkpoint(config, weights)
    _verify_checksums(folder, state, CONFIG, MODEL)
    training = _read_training(folder, config, state) if with_training else None
    return Checkpoint(config, weights, training)


def _read_state(folder: Path) -> dict[str, Any] | None:
    source = folder / STATE
    if not source.exists():
        return None
    content = read_json(source)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{source}: expected format_version {FORMAT_VERSION}, got {brief(version)}"
        )
    return content


def _verify_checksums(folder: Path, state: dict[str, Any], *names: str) -> None:
    checksums = state.get("checksums")
    for name in names:
        if not isinstance(checksums, dict) or name not in checksums:
            raise InputError(f"{folder / STATE}: expected a checksum of {name}, got none")
        if (got := checksum(folder / name)) != checksums[name]:
            raise InputError(
                f"{folder / name}: expected checksum {brief(checksums[name])}, got {got}: "
                f"the file is not as it was saved"
            )


def _read_training(folder: Path, config: GPTConfig, state: dict[str, Any]) -> TrainingState:
    source = folder / OPTIMIZER
    shapes = weight_shapes(config)
    moments = read_safetensors(source)
    expected = {f"{m}.{name}": shape for m in MOMENTS for name, shape in shapes.items()}
    check_shapes(moments, expected, str(source))
    _verify_checksums(folder, state, OPTIMIZER)
    return TrainingState(
        exp_avg={name: moments[f"exp_avg.{name}"] for name in shapes},
        exp_avg_sq={name: moments[f"exp_avg_sq.{name}"] for name in shapes},
        **read_state_fields(state, str(folder / STATE)),
    )


def state_fields(state: TrainingState) -> dict[str, Any]:
    """Return all fields of a training state but the moments, as JSON values."""
    fields = {name: value for name, value in vars(state).items() if name not in MOMENTS}
    return fields | {"loss_scale": state.loss_scale and dataclasses.asdict(state.loss_scale)}


def read_state_fields(content: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the fields that `state_fields` wrote. Raises `InputError` for invalid ones."""
    # Older versions lack these.
    content = {"optimizer_step": None, "fingerprint": {}, "source": {}} | content
    optimizer_step = content["optimizer_step"]
    if optimizer_step is not None:
        optimizer_step = _whole_number(content, "optimizer_step", source)
    loader = _object(content, "loader", source)
    objects = ("options", "versions", "fingerprint", "source")
    return {
        "step": _whole_number(content, "step", source),
        "loader": {"position": _whole_number(loader, "position", source)},
        "optimizer_step": optimizer_step,
        "loss_scale": read_loss_scale(content.get("loss_scale"), source),
        **{name: _object(content, name, source) for name in objects},
    }


def _object(content: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise InputError(f"{source}: {name}: expected an object, got {brief(value)}")
    return value


def _whole_number(content: dict[str, Any], name: str, source: str) -> int:
    value = content.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise InputError(f"{source}: {name}: expected a whole number, got {brief(value)}")
    return value


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
