"""nanoGPT's `ckpt.pt`: model, shape, AdamW's state, and the settings of its run.

nanoGPT computes GELU with erf. Entries of its file that are not used here are written back. Our
state without an entry in its file is written as JSON under `gpt_twins`, which nanoGPT ignores.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt_common.checkpoint import Checkpoint, TrainingState, read_state_fields, state_fields
from gpt_common.config import DataOptions, GPTConfig, ModelOptions, OptimizerOptions, TrainConfig
from gpt_common.errors import InputError, brief
from gpt_common.formats import karpathy, torch_files
from gpt_common.formats.base import Format, require_activation
from gpt_common.formats.karpathy import whole_number
from gpt_common.formats.names import check_weights, transposed_linears
from gpt_common.weights import Weights, weight_shapes

NAME = "nanogpt"
OURS = "gpt_twins"
DATA = "data/"  # the folder of nanoGPT's datasets, relative to the one in which it runs
# nanoGPT's settings -> our options. nanoGPT itself divides accumulation among processes.
WHOLE: dict[str, str] = {
    "batch_size": "batch_size",
    "block_size": "seq_len",
    "gradient_accumulation_steps": "grad_accum",
    "max_iters": "steps",
    "warmup_iters": "warmup_steps",
    "lr_decay_iters": "lr_decay_steps",
}
REAL: dict[str, str] = {
    n: n for n in ("learning_rate", "min_lr", "weight_decay", "beta1", "beta2", "grad_clip")
}
MAX_ENTRIES, MAX_CHARACTERS = 1000, 1000  # of entries that are written back


def detect(path: Path) -> bool:
    """Whether a file is torch's and holds a model with nanoGPT's `model_args`."""
    return {"model", "model_args"} <= set(torch_files.peek(path))


def read(path: Path) -> Checkpoint:
    """Read a file, with the training state if it has AdamW's state."""
    content, source = torch_files.load(path), str(path)
    arguments = require_dict(content["model_args"], "model_args", source)
    config = karpathy.read_shape(arguments, "gelu", source)
    weights = karpathy.read_weights(content["model"], config, source)
    training = read_training(content, config, source)
    return Checkpoint(config, weights, training, notes(arguments, training))


def notes(arguments: dict[str, Any], training: TrainingState | None) -> tuple[str, ...]:
    """Return sentences on what nanoGPT does differently in training."""
    found, dropout = [], plain(arguments).get("dropout")
    if isinstance(dropout, int | float) and dropout > 0:
        found.append(f"nanoGPT trains this model with dropout {dropout}, the twins without")
    if training and training.versions.get("framework") == NAME:
        found.append("nanoGPT samples its batches at random, the twins read the data in order")
    return tuple(found)


def require_dict(value: Any, name: str, source: str) -> dict[Any, Any]:
    """Return a dict. Raises `InputError` for anything else."""
    if not isinstance(value, dict):
        raise InputError(f"{source}: {name}: expected a dict, got {type(value).__name__}")
    return value


def plain(content: Any) -> dict[str, Any]:
    """Return at most `MAX_ENTRIES` entries of a dict that `scalar` accepts, {} if it is no dict."""
    entries = content.items() if isinstance(content, dict) else ()
    values = {name: scalar(value) for name, value in entries if isinstance(name, str)}
    fitting = [(n, v) for n, v in values.items() if len(n) <= MAX_CHARACTERS and v is not None]
    return dict(fitting[:MAX_ENTRIES])


def scalar(value: Any) -> bool | int | float | str | None:
    """Return a boolean, finite number or short string, or that of a tensor; None for others."""
    import torch

    if isinstance(value, torch.Tensor) and value.numel() == 1:
        try:
            value = value.item()
        except RuntimeError:  # a dtype without numbers
            return None
    if isinstance(value, str):
        return value if len(value) <= MAX_CHARACTERS else None
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    return value if isinstance(value, float) and math.isfinite(value) else None


# The training state.


def parameter_order(config: GPTConfig) -> list[str]:
    """Return weight names in the order of nanoGPT's optimizer: those with weight decay first."""
    shapes = weight_shapes(config)
    return [n for n in shapes if len(shapes[n]) >= 2] + [n for n in shapes if len(shapes[n]) < 2]


def read_training(content: dict[str, Any], config: GPTConfig, source: str) -> TrainingState | None:
    """Return the training state, None if the file has no state of AdamW."""
    names = parameter_order(config)
    entries = read_entries(content.get("optimizer"), len(names), source)
    if not entries:
        return None
    exp_avg, exp_avg_sq = (
        read_moment([entry.get(moment) for entry in entries], names, config, source)
        for moment in ("exp_avg", "exp_avg_sq")
    )
    return TrainingState(
        exp_avg=exp_avg,
        exp_avg_sq=exp_avg_sq,
        **read_fields(content, config, source)
        | {
            "step": read_step(content, source),
            "optimizer_step": read_optimizer_step(entries, source),
            "source": {NAME: other_entries(content)},
        },
    )


def read_entries(optimizer: Any, count: int, source: str) -> list[dict[Any, Any]]:
    """Return AdamW's state of each parameter, [] before the first update."""
    if optimizer is None:
        return []
    state = require_dict(optimizer, "optimizer", source).get("state")
    state = require_dict(state, "optimizer: state", source)
    if not state:
        return []
    if set(state) != set(range(count)):
        raise InputError(f"{source}: optimizer: expected {count} parameters, got {len(state)}")
    return [require_dict(state[index], f"optimizer: {index}", source) for index in range(count)]


def read_moment(tensors: list, names: list[str], config: GPTConfig, source: str) -> Weights:
    """Return one of AdamW's moments under Hugging Face's names."""
    arrays = torch_files.to_arrays(dict(zip(names, tensors, strict=True)), source)
    return check_weights(transposed_linears(arrays), config, source)


def read_step(content: dict[str, Any], source: str) -> int:
    """Return the step of the run. Raises `InputError` for an invalid one."""
    step = whole_number(content.get("iter_num", 0), "iter_num", source)
    if step < 0:
        raise InputError(f"{source}: iter_num must not be negative, got {step}")
    return step


def read_optimizer_step(entries: list[dict[Any, Any]], source: str) -> int:
    """Return AdamW's own step count, which lacks the updates that a GradScaler skipped."""
    steps = {scalar(entry.get("step")) for entry in entries}
    (step,) = steps if len(steps) == 1 else (None,)
    if isinstance(step, bool) or not isinstance(step, int | float) or step != abs(int(step)):
        raise InputError(f"{source}: optimizer: expected one whole number as the step of all")
    return whole_number(int(step), "optimizer: step", source)


def read_fields(content: dict[str, Any], config: GPTConfig, source: str) -> dict[str, Any]:
    """Return data position, options and versions, from `gpt_twins` or nanoGPT's settings."""
    if not isinstance(content.get(OURS), str):
        options = read_options(content, config, source).as_dict()
        return {"loader": {"position": 0}, "options": options, "versions": {"framework": NAME}}
    source = f"{source}: {OURS}"
    try:
        entries = dict(json.loads(content[OURS]))
    except (TypeError, ValueError, RecursionError):
        raise InputError(f"{source}: expected the state of a run in JSON") from None
    fields = read_state_fields(entries, source)
    TrainConfig.from_dict(fields["options"], source)  # raises for invalid options
    return fields


# Settings and options.


def read_options(content: dict[str, Any], config: GPTConfig, source: str) -> TrainConfig:
    """Return the options of a run from a file, with our defaults for missing ones.

    The optimizer's betas, eps and weight decay override the settings, as when nanoGPT resumes.
    Raises `InputError` for invalid settings.
    """
    settings = plain(content.get("config"))
    found = read_numbers(settings, source) | read_group(content.get("optimizer"))
    found |= {"lr_schedule": "cosine", "warmup_peak": "next"}
    if settings.get("decay_lr") is not True:  # decay_lr includes the warmup
        found |= {"lr_schedule": "constant", "warmup_steps": 0}
    if isinstance(settings.get("dataset"), str):
        found["data"] = DATA + settings["dataset"]
    data = {name: found.pop(name) for name in ("data", "batch_size", "seq_len") if name in found}
    if "seq_len" in data:
        data["seq_len"] = min(data["seq_len"], config.block_size)
    try:
        model = ModelOptions(**vars(config))
        return TrainConfig(model, DataOptions(**data), OptimizerOptions(**found))
    except InputError as error:
        raise InputError(f"{source}: config: {error}") from None


def read_numbers(settings: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the numeric options under our names."""
    whole = {o: _whole(settings[t], t, source) for t, o in WHOLE.items() if t in settings}
    return whole | {o: _real(settings[t], t, source) for t, o in REAL.items() if t in settings}


def _whole(value: Any, name: str, source: str) -> int:
    as_int = int(value) if isinstance(value, float) and value.is_integer() else value
    return whole_number(as_int, f"config: {name}", source)


def _real(value: Any, name: str, source: str) -> float:
    if type(value) not in (int, float):
        raise InputError(f"{source}: config: {name}: expected a number, got {brief(value)}")
    return float(value)


def read_group(optimizer: Any) -> dict[str, float]:
    """Return the options of AdamW's first group, that with weight decay."""
    groups = optimizer.get("param_groups") if isinstance(optimizer, dict) else None
    group = groups[0] if isinstance(groups, list) and groups else None
    if not isinstance(group, dict):
        return {}
    betas = group.get("betas")
    pair = betas if isinstance(betas, tuple | list) and len(betas) == 2 else ()
    found = plain(dict(zip(("beta1", "beta2"), pair, strict=False)) | group)
    names = ("beta1", "beta2", "eps", "weight_decay")
    return {name: float(found[name]) for name in names if type(found.get(name)) in (int, float)}


def other_entries(content: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a file that are to be written back."""
    entries = {name: value for name, value in plain(content).items() if name != OURS}
    return entries | {name: plain(content.get(name)) for name in ("config", "model_args")}


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file from which nanoGPT resumes."""
    config, training = checkpoint.config, checkpoint.training
    require_activation(config, "gelu", NAME)
    before = training.source.get(NAME, {}) if training else {}
    shape = {name: getattr(config, name) for name in (*karpathy.SHAPE_FIELDS, "bias")}
    content = {
        "best_val_loss": 1e9,
        **plain(before),
        "model": karpathy.state_dict(checkpoint.weights),
        "optimizer": optimizer_state(training, config),
        "model_args": {"dropout": 0.0} | plain(before.get("model_args")) | shape,
        "iter_num": training.step if training else 0,
        "config": settings(training, plain(before.get("config")), config),
    }
    if training:
        content[OURS] = json.dumps(state_fields(replace(training, source={})))
    karpathy.save(path, content)


def settings(
    training: TrainingState | None, before: dict[str, Any], config: GPTConfig
) -> dict[str, Any]:
    """Return nanoGPT's settings: those `before`, updated with options that have changed.

    If there were none, all options; without training state, `before`.
    """
    if training is None:
        return before
    now = as_settings(TrainConfig.from_dict(training.options, NAME))
    old = as_settings(read_options({"config": before}, config, NAME))
    return before | {n: v for n, v in now.items() if not before or v != old.get(n)}


def as_settings(config: TrainConfig) -> dict[str, Any]:
    """Return a run's options as nanoGPT's settings, if they have an equivalent."""
    options = vars(config.data) | vars(config.optimizer) | {"grad_accum": config.grad_accum}
    found = {theirs: options[ours] for theirs, ours in (WHOLE | REAL).items()}
    found["lr_decay_iters"] = found["lr_decay_iters"] or found["max_iters"]
    found["decay_lr"] = config.optimizer.lr_schedule == "cosine"
    data = config.data.data
    dataset = data.startswith(DATA) and not Path(data).suffix  # a folder, as in nanoGPT
    return found | ({"dataset": data.removeprefix(DATA)} if dataset else {})


def optimizer_state(training: TrainingState | None, config: GPTConfig) -> dict[str, Any]:
    """Return AdamW's `state_dict()`; without training state a new one, which nanoGPT requires."""
    names, shapes = parameter_order(config), weight_shapes(config)
    matrices = sum(len(shapes[name]) >= 2 for name in names)
    options = TrainConfig.from_dict(training.options, NAME) if training else TrainConfig()
    optimizer = options.optimizer
    common = {
        "lr": optimizer.learning_rate,
        "betas": (optimizer.beta1, optimizer.beta2),
        "eps": optimizer.eps,
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
    }
    groups = [
        common | {"weight_decay": optimizer.weight_decay, "params": list(range(matrices))},
        common | {"weight_decay": 0.0, "params": list(range(matrices, len(names)))},
    ]
    return {"state": parameter_states(training, names) if training else {}, "param_groups": groups}


def parameter_states(training: TrainingState, names: list[str]) -> dict[int, dict[str, Any]]:
    """Return AdamW's step and moments of each parameter."""
    import torch

    step = float(training.adamw_step)
    first, second = (transposed_linears(m) for m in (training.exp_avg, training.exp_avg_sq))
    return {
        index: {
            "step": torch.tensor(step),
            "exp_avg": torch_files.to_tensor(first[name]),
            "exp_avg_sq": torch_files.to_tensor(second[name]),
        }
        for index, name in enumerate(names)
    }


FORMAT = Format(NAME, "nanoGPT's ckpt.pt, with AdamW's state", detect, read, write, True)
