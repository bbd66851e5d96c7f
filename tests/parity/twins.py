"""The twins, and Hugging Face's GPT-2 as an independent reference: numpy in, numpy out."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import GPT2LMHeadModel

from convert.verify import flax_loss_and_layers, huggingface_model, record
from gpt_common.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from gpt_common.completion import Completion
from gpt_common.config import (
    DataOptions,
    Device,
    Dtype,
    GPTConfig,
    ModelOptions,
    OptimizerOptions,
    OutputOptions,
    RuntimeOptions,
    SamplingOptions,
    StoppingOptions,
    TrainConfig,
)
from gpt_common.data import BatchLoader
from gpt_common.metrics import read_log
from gpt_common.weights import Array, Weights
from gpt_flax import fast as flax_fast
from gpt_flax import generate as flax_generate
from gpt_flax import train as flax_train
from gpt_flax.device import select_device as select_flax_device
from gpt_flax.inference import prepare_for_inference as prepare_params
from gpt_flax.weights import to_hf as flax_to_hf
from gpt_torch import fast as torch_fast
from gpt_torch import train as torch_train
from gpt_torch.device import select_device as select_torch_device
from gpt_torch.generate import generate as torch_generate
from gpt_torch.generate import load_model as load_torch_model
from gpt_torch.inference import prepare_for_inference as prepare_model
from gpt_torch.precision import autocast, master_dtype
from gpt_torch.weights import to_hf as torch_to_hf
from tests.conftest import kept_jax_config
from tests.parity.reference import Outcome, Training

FRAMEWORKS = ("torch", "flax")


def torch_outcome(
    checkpoint: Checkpoint,
    x: Array,
    y: Array,
    dtype: Dtype,
    device: Device,
    compiled: bool = False,
    fast: bool = False,
    onednn: bool = True,
) -> Outcome:
    """The loss and the gradients are those of `GPT.loss`, the trainer's, where it is `fast`."""
    place = select_torch_device(device, dtype)
    ops = torch_fast.FastOps(onednn and dtype == "float32", True, 512) if fast else None
    model = load_torch_model(checkpoint, master_dtype(dtype), place, ops)
    layers = {} if compiled else record(model)
    if compiled:
        model.compile()
        torch_train.compile_train_step(model)
    tokens, targets = (torch.from_numpy(a).to(place, torch.int64) for a in (x, y))
    with autocast(place, dtype):
        logits, loss = model(tokens, targets)
    if fast:
        loss = torch_train.loss_fn(model, tokens, targets, dtype)
    loss.backward()
    layers["logits"] = logits.detach().cpu().double().numpy()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return Outcome(layers, loss.item(), torch_to_hf(gradients, checkpoint.config))


flax_value_and_grad = jax.jit(
    jax.value_and_grad(flax_loss_and_layers, has_aux=True), static_argnums=(1, 4)
)


flax_layers = jax.jit(flax_loss_and_layers, static_argnums=(1, 4))


flax_loss_and_gradients = jax.jit(jax.value_and_grad(flax_train.loss_fn), static_argnums=(1, 4))


def flax_outcome(
    checkpoint: Checkpoint,
    x: Array,
    y: Array,
    dtype: Dtype,
    device: Device,
    compiled: bool = True,
    fast: bool = False,
) -> Outcome:
    """The loss and the gradients are those of `GPT.loss`, the trainer's, where it is `fast`."""
    with kept_jax_config(), contextlib.nullcontext() if compiled else jax.disable_jit():
        select_flax_device(device, dtype)
        ops = flax_fast.FastOps(True, True, True, chunked_cross_entropy=True) if fast else None
        params, model = flax_generate.load_model(checkpoint, dtype, ops)
        inputs = params, model, x.astype(np.int32), y.astype(np.int32), dtype
        if fast:
            _, layers = flax_layers(*inputs)
            loss, gradients = flax_loss_and_gradients(*inputs)
        else:
            (loss, layers), gradients = flax_value_and_grad(*inputs)
        layers = {name: np.asarray(layer, np.float64) for name, layer in layers.items()}
        return Outcome(layers, loss.item(), flax_to_hf(gradients, checkpoint.config))


OUTCOMES = {"torch": torch_outcome, "flax": flax_outcome}


def outcome(
    framework: str,
    config: GPTConfig,
    weights: Weights,
    x: Array,
    y: Array,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    **how: bool,
) -> Outcome:
    """Run a twin forward and backward on `(B, T)` tokens and targets."""
    return OUTCOMES[framework](Checkpoint(config, weights), x, y, dtype, device, **how)


def train_twin(
    framework: str,
    start: Checkpoint,
    tokens: Array,
    B: int,
    T: int,
    options: OptimizerOptions,
    folder: Path,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    fast: bool = True,
) -> Training:
    """Train a twin through its own command's code, from a checkpoint and a file of tokens."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "tokens.npy", tokens.astype(np.uint16))
    write_checkpoint(folder / "start", start)
    config = TrainConfig(
        model=ModelOptions(init=str(folder / "start")),
        data=DataOptions(str(folder / "tokens.npy"), 0.0, batch_size=B, seq_len=T),
        optimizer=options,
        runtime=RuntimeOptions(device=device, dtype=dtype, fast_ops=fast),
        output=OutputOptions(out_dir=str(folder / f"run-{framework}")),
    )
    with kept_jax_config():
        importlib.import_module(f"gpt_{framework}.train").train(config)
    log = read_log(folder / f"run-{framework}" / "log.jsonl")
    end = read_checkpoint(folder / f"run-{framework}")
    steps = [entry for entry in log if "loss" in entry]
    return Training(
        [entry["loss"] for entry in steps],
        [entry["grad_norm"] for entry in steps],
        end.weights,
        end.training.exp_avg,
        end.training.exp_avg_sq,
    )


def evaluation(framework: str, start: Checkpoint, loader: BatchLoader, steps: int) -> float:
    """Return a twin's validation loss over the first batches of a loader, in float64."""
    with kept_jax_config():
        if framework == "torch":
            place = select_torch_device("cpu", "float64")
            model = load_torch_model(start, torch.float64, place)
            return torch_train.evaluate(model, loader, steps, "float64", place)
        select_flax_device("cpu", "float64")
        twin = flax_generate.load_model(start, "float64")
        return flax_train.evaluate(*twin, loader, steps, "float64")


def completions(
    framework: str,
    start: Checkpoint,
    prompts: list[list[int]],
    sampling: SamplingOptions,
    stopping: StoppingOptions,
    num_samples: int = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    exact: bool = False,
) -> list[Completion]:
    """Continue prompts in a twin, through its library call and with inference weights."""
    how = sampling, stopping, num_samples
    if framework == "torch":
        place = select_torch_device(device, dtype)
        model = prepare_model(load_torch_model(start, master_dtype(dtype), place), dtype)
        return torch_generate(model, prompts, *how, dtype, exact)
    with kept_jax_config():
        select_flax_device(device, dtype)
        twin = prepare_params(*flax_generate.load_model(start, dtype), dtype)
        return flax_generate.generate(*twin, prompts, *how, dtype, exact)


def inference_logits(framework: str, start: Checkpoint, x: Array) -> Array:
    """Return the float32 logits `(B, T, V)` of inference weights, on a CPU."""
    if framework == "torch":
        model = load_torch_model(start, torch.float32, select_torch_device("cpu", "float32"))
        with torch.inference_mode():
            return prepare_model(model, "float32")(torch.from_numpy(x))[0].numpy()
    with kept_jax_config():
        select_flax_device("cpu", "float32")
        params, model = prepare_params(*flax_generate.load_model(start, "float32"), "float32")
        return np.asarray(jax.jit(model.apply)({"params": params}, x.astype(np.int32))[0])


def hugging_face(config: GPTConfig, weights: Weights, dtype: Dtype = "float64") -> GPT2LMHeadModel:
    """Return transformers' model, ready to train; its configuration has no dropout."""
    return huggingface_model(Checkpoint(config, weights), dtype).train()


def hugging_face_loss(model: GPT2LMHeadModel, x: Array, y: Array) -> tuple[torch.Tensor, ...]:
    """Return the logits, and the loss as torch computes it."""
    logits = model(torch.from_numpy(x).long()).logits
    targets = torch.from_numpy(y).long().flatten()
    return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)


def hugging_face_outcome(config: GPTConfig, weights: Weights, x: Array, y: Array) -> Outcome:
    model = hugging_face(config, weights)
    layers = record(model.transformer)
    logits, loss = hugging_face_loss(model, x, y)
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return Outcome(layers | {"logits": logits.detach().numpy()}, loss.item(), gradients)


def hugging_face_training(
    start: Checkpoint,
    batches: Iterator[tuple[Array, Array]],
    options: OptimizerOptions,
    rates: list[float],
    dtype: Dtype = "float64",
) -> Training:
    """Train transformers' model with `torch.optim.AdamW`, one batch an update, in a plain loop.

    The norm is summed in float64: in float32 torch's `clip_grad_norm_` is 0.07 % low at 124M.
    """
    model = hugging_face(start.config, start.weights, dtype)
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in named.values() if p.ndim == 1], "weight_decay": 0},
    ]
    betas = (options.beta1, options.beta2)
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=options.eps)
    losses, norms = [], []
    for rate, (x, y) in zip(rates, batches, strict=False):
        _, loss = hugging_face_loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        norm = sum(p.grad.double().square().sum() for p in named.values()).sqrt()
        if options.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(named.values(), options.grad_clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    moments = [
        {name: optimizer.state[p][moment].numpy() for name, p in named.items()}
        for moment in ("exp_avg", "exp_avg_sq")
    ]
    return Training(losses, norms, {k: p.detach().numpy() for k, p in named.items()}, *moments)
