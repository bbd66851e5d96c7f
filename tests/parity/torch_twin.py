"""`gpt_torch`, called with numpy arrays; `flax_twin.py` has the same functions."""

import numpy as np
import torch

from convert.verify import record
from gpt_common.checkpoint import Checkpoint
from gpt_common.completion import Completion
from gpt_common.config import Device, Dtype, TrainConfig
from gpt_common.data import BatchLoader
from gpt_common.scoring import Logprobs
from gpt_common.weights import Array
from gpt_torch import model as gpt
from gpt_torch import optimizer
from gpt_torch import train as trainer
from gpt_torch.device import select_device
from gpt_torch.evaluate import numpy_logprobs
from gpt_torch.fast import FastOps
from gpt_torch.generate import generate, load_model
from gpt_torch.inference import prepare_for_inference
from gpt_torch.loss_scale import create_scaler, scale_loss
from gpt_torch.precision import autocast, master_dtype
from gpt_torch.weights import to_hf
from tests.parity.reference import Outcome


def require(device: Device, dtype: Dtype) -> None:
    """Raise `InputError` if the twin cannot compute on the device in `dtype`."""
    select_device(device, dtype)


def outcome(
    checkpoint: Checkpoint,
    x: Array,
    y: Array,
    dtype: Dtype,
    device: Device,
    compiled: bool = False,
    fast: bool = False,
    onednn: bool = True,
) -> Outcome:
    """The loss and the gradients are those of `GPT.loss`, the trainer's, where it is `fast`.

    In float16 they are computed with a loss scale, as in training.
    """
    place = select_device(device, dtype)
    ops = FastOps(onednn and dtype == "float32", True, 512) if fast else None
    model = load_model(checkpoint, master_dtype(dtype), place, ops)
    layers = {} if compiled else record(model)
    if compiled:
        model.compile()
        trainer.compile_train_step(model)
    tokens, targets = (torch.from_numpy(a).to(place, torch.int64) for a in (x, y))
    with autocast(place, dtype):
        logits, loss = model(tokens, targets)
    if fast:
        loss = trainer.loss_fn(model, tokens, targets, dtype)
    scaler = create_scaler(dtype, None, place)
    scale_loss(loss, scaler).backward()
    scale = scaler.get_scale() if scaler else 1
    layers["logits"] = logits.detach().cpu().double().numpy()
    gradients = {name: p.grad / scale for name, p in model.named_parameters()}
    return Outcome(layers, loss.item(), to_hf(gradients, checkpoint.config))


def train(config: TrainConfig) -> None:
    trainer.train(config)


def evaluation(start: Checkpoint, loader: BatchLoader, steps: int) -> float:
    place = select_device("cpu", "float64")
    model = load_model(start, torch.float64, place)
    return trainer.evaluate(model, loader, steps, "float64", place)


def completions(
    start: Checkpoint,
    prompts: list[list[int]],
    how: tuple,
    dtype: Dtype,
    device: Device,
    exact: bool,
    compiled: bool = False,
) -> list[Completion]:
    place = select_device(device, dtype)
    model = load_model(start, master_dtype(dtype), place)
    model = prepare_for_inference(model, dtype, compiled)
    return generate(model, prompts, *how, dtype, exact)


def inference_logits(start: Checkpoint, x: Array) -> Array:
    model = load_model(start, torch.float32, select_device("cpu", "float32"))
    with torch.inference_mode():
        logits: np.ndarray = prepare_for_inference(model, "float32")(torch.from_numpy(x))[0].numpy()
    return logits


def loaded(start: Checkpoint) -> tuple:
    """The first arguments of the twin's functions of a model, in float32."""
    return (load_model(start, torch.float32, select_device("cpu", "float32")),)


def logprobs(start: Checkpoint, dtype: Dtype, device: Device) -> Logprobs:
    place = select_device(device, dtype)
    return numpy_logprobs(load_model(start, master_dtype(dtype), place), dtype)


def causal_attention(q: Array, k: Array, v: Array, dtype: Dtype) -> Array:
    """Queries, keys and values are `(B, nh, T, hs)`, and so is what it returns."""
    return gpt.causal_attention(*cast([q, k, v], dtype)).double().numpy()


def cross_entropy(logits: Array, targets: Array, dtype: Dtype) -> Array:
    return gpt.cross_entropy(*cast([logits], dtype), torch.from_numpy(targets)).numpy()


def block(start: Checkpoint, x: Array, dtype: Dtype) -> Array:
    """The first one's output."""
    place = select_device("cpu", dtype)
    first = load_model(start, master_dtype(dtype), place).h[0]
    with torch.inference_mode(), autocast(place, dtype):
        return first(*cast([x], "float64" if dtype == "float64" else "float32")).double().numpy()


def clip_by_global_norm(gradients: list[Array], max_norm: float, dtype: Dtype) -> list[Array]:
    clipped = cast(gradients, dtype)
    optimizer.clip_by_global_norm(clipped, max_norm)
    return [gradient.numpy() for gradient in clipped]


def cast(arrays: list[Array], dtype: Dtype) -> list[torch.Tensor]:
    return [torch.from_numpy(array).to(getattr(torch, dtype), copy=True) for array in arrays]
