"""The checkpoint: a folder that is a Hugging Face model, and from which either twin resumes.

    config.json               Hugging Face's GPT-2 configuration
    model.safetensors         the weights (see gpt_common.weights)
    optimizer.safetensors     AdamW's moments, as exp_avg.NAME and exp_avg_sq.NAME
    training_state.json       step, position in the data, every option, versions, checksums
    vocab.json, merges.txt, tokenizer_config.json (where the vocabulary is GPT-2's)

A run is a folder of checkpoints, `step_000050` and so on, with a link `latest` to the last one.
A process may be killed at any instant: files under these names are always complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_common import tokenizer
from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig
from gpt_common.errors import InputError, shown
from gpt_common.storage import (
    atomic_file,
    atomic_folder,
    checksum,
    existing_folder,
    read_json,
    read_safetensors,
    remove_folder,
    write_safetensors,
)
from gpt_common.weights import (
    Weights,
    check_shapes,
    fitting_weights,
    weight_shapes,
    with_zero_biases,
)

FORMAT_VERSION = 1
CONFIG, MODEL, OPTIMIZER = "config.json", "model.safetensors", "optimizer.safetensors"
STATE = "training_state.json"
LATEST, LOG = "latest", "log.jsonl"
STEP_FOLDER = re.compile(r"step_\d+")
MOMENTS = ("exp_avg", "exp_avg_sq")
HUGGING_FACE_NAMES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
    "activation": "activation_function",
    "bias": "bias",  # not Hugging Face's, whose GPT-2 always has biases: there they are zeros
}
# What Hugging Face's GPT-2 leaves open and ours does not: another value is another model.
HUGGING_FACE_FIXED = {
    "model_type": "gpt2",
    "layer_norm_epsilon": LAYER_NORM_EPSILON,
    "n_inner": None,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}
MOST_SIZE = 2**31 - 1  # of anything in a model: tokens and positions are int32
ACTIVATION_ALIASES = {"gelu_pytorch_tanh": "gelu_new"}


@dataclass(frozen=True)
class TrainingState:
    """What a run needs besides the weights to resume: moments, step, data position, options.

    `optimizer_step` is AdamW's own count of its updates; None means that it equals `step`. `source`
    holds the other entries of another program's file, by the format's name, to be written back.
    `fingerprint` identifies the training data; it is empty where the data is not known.
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

    def optimizer_step_at(self, step: int) -> int:
        """Return AdamW's own count after `step` updates of the run."""
        done = self.step if self.optimizer_step is None else self.optimizer_step
        return done + step - self.step


@dataclass(frozen=True)
class Checkpoint:
    """A model and, where it comes from a run, the state of the run.

    `notes` are sentences for the user; the caller prints them.
    """

    config: GPTConfig
    weights: Weights
    training: TrainingState | None = None
    notes: tuple[str, ...] = ()


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder atomically."""
    with atomic_folder(folder) as part:
        write_description(part, checkpoint.config)
        weights = with_zero_biases(checkpoint.weights, checkpoint.config)  # for transformers
        write_safetensors(part / MODEL, weights)
        if state := checkpoint.training:
            moments = {f"{m}.{name}": w for m in MOMENTS for name, w in getattr(state, m).items()}
            write_safetensors(part / OPTIMIZER, moments)
            fields = state_fields(state)
            fields["format_version"] = FORMAT_VERSION
            fields["checksums"] = {n: checksum(part / n) for n in (CONFIG, MODEL, OPTIMIZER)}
            (part / STATE).write_text(_json(fields))


def write_description(folder: Path, config: GPTConfig) -> None:
    """Write a Hugging Face folder's configuration and tokenizer."""
    (folder / CONFIG).write_text(_json(to_hugging_face(config)))
    if config.vocab_size >= tokenizer.VOCAB_SIZE:
        for name, content in tokenizer.tokenizer_files(config.block_size).items():
            (folder / name).write_bytes(content)


def read_checkpoint(path: str | Path, with_training: bool = True) -> Checkpoint:
    """Read a checkpoint folder, or the newest undamaged checkpoint in a run's folder.

    The notes name newer checkpoints of the run that are damaged. Raises `InputError` where a file
    is missing, damaged, or does not fit the configuration.
    """
    errors: list[str] = []
    for folder in checkpoint_folders(Path(path)):
        try:
            checkpoint = _read_folder(folder, with_training)
        except (InputError, OSError) as error:
            errors.append(str(error))
        else:
            notes = tuple(f"passed over a damaged checkpoint: {error}" for error in errors)
            return dataclasses.replace(checkpoint, notes=notes + checkpoint.notes)
    raise InputError(errors[0] + _whole_beside(folder))


def _whole_beside(damaged: Path) -> str:
    """Return a hint at the newest undamaged checkpoint in the run of a damaged one."""
    for folder in reversed(run_checkpoints(damaged.parent)):
        with contextlib.suppress(InputError, OSError):
            _read_folder(folder, with_training=True)
            return f"; {folder} is whole"
    return ""


def _read_folder(folder: Path, with_training: bool) -> Checkpoint:
    config = read_config(folder / CONFIG)
    source = folder / MODEL
    weights = fitting_weights(read_safetensors(source), config, str(source))
    state = _read_state(folder)
    if state is None:
        return Checkpoint(config, weights)
    _check_files(folder, state, CONFIG, MODEL)
    return Checkpoint(
        config, weights, _read_training(folder, config, state) if with_training else None
    )


def read_config(path: Path) -> GPTConfig:
    """Return the model's shape from a Hugging Face `config.json`.

    Raises `InputError` where it is damaged or of another model.
    """
    return from_hugging_face(read_json(path), str(path))


def read_options(path: str | Path) -> tuple[Path, dict[str, Any] | None]:
    """Return a checkpoint's folder and the options of its run, None where it has weights only.

    In a run's folder it is the newest checkpoint whose options can be read.
    """
    *newer, oldest = checkpoint_folders(Path(path))
    for folder in newer:
        with contextlib.suppress(InputError, OSError):
            return folder, _options(folder)
    return oldest, _options(oldest)


def _options(folder: Path) -> dict[str, Any] | None:
    state = _read_state(folder)
    return None if state is None else _object(state, "options", str(folder / STATE))


def checkpoint_folders(path: Path) -> list[Path]:
    """Return `path` where it is a checkpoint, or the checkpoints of a run's folder, newest first.

    The newest is the one that `latest` names, then those before it. Without `latest` it is the one
    with the highest step. Raises `InputError` where there is none.
    """
    own = existing_folder(_resolved(path))
    if (own / CONFIG).is_file():
        return [own]
    found = [_resolved(folder) for folder in reversed(run_checkpoints(path))]
    link = path / LATEST
    if link.is_symlink() or link.is_dir():
        latest = existing_folder(_resolved(link))
        # Later steps were made before the run was resumed from an earlier one.
        if STEP_FOLDER.fullmatch(latest.name):
            found.sort(key=lambda folder: step_of(folder) > step_of(latest))
        found = [latest, *(folder for folder in found if folder != latest)]
    if found:
        return found
    what = "a folder without one" if path.is_dir() else "nothing there"
    raise InputError(f"{path}: expected a checkpoint folder with a config.json, got {what}")


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike resolve(), also of a link that leads to itself


def run_checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints in a run's folder, in the order of their steps."""
    whole = [
        folder
        for folder in run.glob("step_*")
        if STEP_FOLDER.fullmatch(folder.name)
        and all((folder / name).is_file() for name in (CONFIG, MODEL, OPTIMIZER, STATE))
    ]
    return sorted(whole, key=step_of)


def remove_older(folder: Path, keep_last: int) -> None:
    """Remove all checkpoints of a run but the last `keep_last`, of which `folder` is the newest.

    Steps later than `folder`, from before the run was resumed, are neither removed nor counted.
    """
    found = run_checkpoints(folder.parent)
    until = found.index(folder) + 1 if folder in found else 0
    for older in found[:until][:-keep_last]:
        remove_folder(older)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: it has a log, `latest`, or complete checkpoints."""
    marks = (folder / LATEST).is_symlink() or (folder / LOG).exists()
    return marks or bool(run_checkpoints(folder))


def step_folder(run: Path, step: int) -> Path:
    """Return the folder of a run's checkpoint after `step` updates."""
    return run / f"step_{step:06d}"


def step_of(folder: Path) -> int:
    """Return the number of updates in the name of a run's checkpoint."""
    return int(folder.name.removeprefix("step_"))


def point_latest(run: Path, folder: Path) -> None:
    """Make the run's link `latest` point to `folder`, atomically."""
    with atomic_file(run / LATEST) as link:
        link.symlink_to(folder.name)


def to_hugging_face(config: GPTConfig) -> dict[str, Any]:
    """Return `config` as the content of a Hugging Face `config.json`."""
    shape = {HUGGING_FACE_NAMES[k]: v for k, v in dataclasses.asdict(config).items()}
    if config.bias:
        del shape["bias"]
    has_end = config.vocab_size > tokenizer.END_OF_TEXT_TOKEN
    end = tokenizer.END_OF_TEXT_TOKEN if has_end else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        **shape,
        **HUGGING_FACE_FIXED,
        "n_ctx": config.block_size,
        "initializer_range": 0.02,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), end),
    }


def from_hugging_face(content: dict[str, Any], source: str) -> GPTConfig:
    """Return the `GPTConfig` of a Hugging Face `config.json`.

    Raises `InputError` where it describes a model that is not this GPT-2.
    """
    for name, expected in HUGGING_FACE_FIXED.items():
        if content.get(name, expected) != expected:
            got = shown(content[name])
            raise InputError(f"{source}: expected {name} {expected}, got {got}")
    names = HUGGING_FACE_NAMES.items()
    fields = {ours: content[theirs] for ours, theirs in names if theirs in content}
    activation = fields.pop("activation", "gelu_new")
    if not isinstance(activation, str):
        raise InputError(f"{source}: activation_function: expected a name, got {shown(activation)}")
    bias = fields.pop("bias", True)
    return shape_of(fields, ACTIVATION_ALIASES.get(activation, activation), source, bias)


def shape_of(sizes: dict[str, Any], activation: str, source: str, bias: Any = True) -> GPTConfig:
    """Return the model's shape from a file's entries. Raises `InputError` for invalid ones.

    `source` names the file in the message.
    """
    if type(bias) is not bool:
        raise InputError(f"{source}: bias: expected true or false, got {shown(bias)}")
    for name, value in sizes.items():
        if type(value) is not int or value > MOST_SIZE:
            raise InputError(f"{source}: {name}: expected a whole number, got {shown(value)}")
    try:
        return GPTConfig(**sizes, activation=activation, bias=bias)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _read_state(folder: Path) -> dict[str, Any] | None:
    source = folder / STATE
    if not source.exists():
        return None
    content = read_json(source)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{source}: expected format_version {FORMAT_VERSION}, got {shown(version)}"
        )
    return content


def _check_files(folder: Path, state: dict[str, Any], *names: str) -> None:
    checksums = state.get("checksums")
    for name in names:
        if not isinstance(checksums, dict) or name not in checksums:
            raise InputError(f"{folder / STATE}: expected a checksum of {name}, got none")
        if (got := checksum(folder / name)) != checksums[name]:
            raise InputError(
                f"{folder / name}: expected checksum {shown(checksums[name])}, got {got}: "
                f"the file is not as it was saved"
            )


def _read_training(folder: Path, config: GPTConfig, state: dict[str, Any]) -> TrainingState:
    source = folder / OPTIMIZER
    shapes = weight_shapes(config)
    moments = read_safetensors(source)
    expected = {f"{m}.{name}": shape for m in MOMENTS for name, shape in shapes.items()}
    check_shapes(moments, expected, str(source))
    _check_files(folder, state, OPTIMIZER)
    return TrainingState(
        exp_avg={name: moments[f"exp_avg.{name}"] for name in shapes},
        exp_avg_sq={name: moments[f"exp_avg_sq.{name}"] for name in shapes},
        **read_state_fields(state, str(folder / STATE)),
    )


def state_fields(state: TrainingState) -> dict[str, Any]:
    """Return all of a training state but the moments, as JSON values."""
    return {name: value for name, value in vars(state).items() if name not in MOMENTS}


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
        **{name: _object(content, name, source) for name in objects},
    }


def _object(content: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise InputError(f"{source}: {name}: expected an object, got {shown(value)}")
    return value


def _whole_number(content: dict[str, Any], name: str, source: str) -> int:
    value = content.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise InputError(f"{source}: {name}: expected a whole number, got {shown(value)}")
    return value


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
