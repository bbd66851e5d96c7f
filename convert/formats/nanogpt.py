"""nanoGPT's `ckpt.pt`: model, shape, and AdamW's state.

nanoGPT computes the erf GELU. A model of `bias=False` is read with biases of zero, which is exact.
"""

from pathlib import Path
from typing import Any

from convert import torch_files
from convert.formats import karpathy
from convert.formats.base import Format, require_activation
from convert.names import check_weights, transposed_linears
from gpt_common.checkpoint import Checkpoint, TrainingState
from gpt_common.config import GPTConfig, OptimizerOptions, TrainConfig
from gpt_common.errors import InputError
from gpt_common.weights import Weights, weight_shapes

NAME = "nanogpt"
# nanoGPT's settings and our options.
OPTIONS = {
    **{name: name for name in ("learning_rate", "min_lr", "weight_decay", "beta1", "beta2")},
    "grad_clip": "grad_clip",
    "warmup_iters": "warmup_steps",
    "lr_decay_iters": "steps",
    "gradient_accumulation_steps": "grad_accum",
}


def detect(path: Path) -> bool:
    """Whether a file is torch's and holds a model with nanoGPT's `model_args`."""
    return {"model", "model_args"} <= set(torch_files.peek(path))


def read(path: Path) -> Checkpoint:
    """Read a file; where it has AdamW's state, the state of a run at the start of its data."""
    content, source = torch_files.load(path), str(path)
    arguments = content["model_args"]
    if not isinstance(arguments, dict):
        raise InputError(f"{path}: model_args: expected a dict, got {type(arguments).__name__}")
    config = karpathy.read_shape(arguments, "gelu", source)
    biases = arguments.get("bias", True) is not False
    weights = karpathy.read_weights(content["model"], config, source, biases)
    try:
        training = read_training(content, config, biases, source)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected AdamW's state, got: {error!r}") from None
    return Checkpoint(config, weights, training)


def parameter_order(config: GPTConfig, biases: bool) -> list[str]:
    """Return the neutral names in the order of nanoGPT's optimizer: what decays is first."""
    shapes = weight_shapes(config)
    names = [n for n in shapes if biases or not n.endswith(".bias")]
    return [n for n in names if len(shapes[n]) >= 2] + [n for n in names if len(shapes[n]) < 2]


def read_training(
    content: dict[str, Any], config: GPTConfig, biases: bool, source: str
) -> TrainingState | None:
    """Return AdamW's state, or None where the file has none."""
    state = (content.get("optimizer") or {}).get("state")
    if not state:
        return None
    names = parameter_order(config, biases)
    if set(state) != set(range(len(names))):
        raise InputError(f"{source}: optimizer: expected {len(names)} parameters, got {len(state)}")
    entries = [state[index] for index in range(len(names))]
    moments = {
        moment: read_moment([entry.get(moment) for entry in entries], names, config, source)
        for moment in ("exp_avg", "exp_avg_sq")
    }
    step = content.get("iter_num", 0)
    return TrainingState(
        step=int(step),
        loader={"position": 0},
        options=read_options(content.get("config")).as_dict(),
        versions={"framework": NAME},
        **moments,
    )


def read_options(settings: Any) -> TrainConfig:
    """Return what nanoGPT's `config` says of the run; our defaults for what it does not say."""
    settings = settings if isinstance(settings, dict) else {}
    known = {
        ours: settings[theirs]
        for theirs, ours in OPTIONS.items()
        if type(settings.get(theirs)) in (int, float)
    }
    schedule: Any = "cosine" if settings.get("decay_lr") else "constant"
    return TrainConfig(optimizer=OptimizerOptions(lr_schedule=schedule, **known))


def read_moment(tensors: list, names: list[str], config: GPTConfig, source: str) -> Weights:
    """Return one of AdamW's moments under neutral names; zeros for biases that are not there."""
    arrays = torch_files.to_arrays(dict(zip(names, tensors, strict=True)), source)
    return check_weights(
        transposed_linears(karpathy.zero_biases(config, arrays) | arrays), config, source
    )


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file from which nanoGPT resumes."""
    config = checkpoint.config
    require_activation(config, "gelu", NAME)
    arguments = {name: getattr(config, name) for name in karpathy.SHAPE_FIELDS}
    training = checkpoint.training
    content = {
        "model": karpathy.state_dict(checkpoint.weights),
        "model_args": arguments | {"bias": True, "dropout": 0.0},
        "iter_num": training.step if training else 0,
        "best_val_loss": 1e9,
        "config": {},
    }
    if training:
        content["optimizer"] = optimizer_state(training, config)
    karpathy.save(path, content)


def optimizer_state(training: TrainingState, config: GPTConfig) -> dict[str, Any]:
    """Return AdamW's state as `torch.optim.AdamW.state_dict()` would."""
    import torch

    names = parameter_order(config, biases=True)
    first, second = (transposed_linears(m) for m in (training.exp_avg, training.exp_avg_sq))
    state = {
        index: {
            "step": torch.tensor(float(training.step)),
            "exp_avg": torch_files.to_tensor(first[name]),
            "exp_avg_sq": torch_files.to_tensor(second[name]),
        }
        for index, name in enumerate(names)
    }
    matrices = sum(len(weight_shapes(config)[name]) >= 2 for name in names)
    options = TrainConfig.from_dict(training.options).optimizer
    common = {
        "lr": options.learning_rate,
        "betas": (options.beta1, options.beta2),
        "eps": options.eps,
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
    }
    groups = [
        common | {"weight_decay": options.weight_decay, "params": list(range(matrices))},
        common | {"weight_decay": 0.0, "params": list(range(matrices, len(names)))},
    ]
    return {"state": state, "param_groups": groups}


FORMAT = Format(NAME, "nanoGPT's ckpt.pt, with AdamW's state", detect, read, write, True)
