"""`gpt_flax`, called with numpy arrays; `torch_twin.py` has the same functions."""

import contextlib
from functools import partial

import jax
import numpy as np

from convert.verify import flax_loss_and_layers
from gpt_common.checkpoint import Checkpoint
from gpt_common.completion import Completion
from gpt_common.config import Device, Dtype, TrainConfig
from gpt_common.data import BatchLoader
from gpt_common.scoring import Logprobs
from gpt_common.weights import Array
from gpt_flax import model as gpt
from gpt_flax import optimizer
from gpt_flax import train as trainer
from gpt_flax.device import select_device
from gpt_flax.evaluate import numpy_logprobs
from gpt_flax.fast import FastOps
from gpt_flax.generate import generate, load_model
from gpt_flax.inference import prepare_for_inference
from gpt_flax.loss_scale import create_scaler, unscale, value_and_scaled_grad
from gpt_flax.model import GPT
from gpt_flax.precision import autocast
from gpt_flax.weights import Params, to_hf
from tests.conftest import kept_jax_config
from tests.parity.reference import Outcome

value_and_grad = jax.jit(
    jax.value_and_grad(flax_loss_and_layers, has_aux=True), static_argnums=(1, 4)
)
loss_and_layers = jax.jit(flax_loss_and_layers, static_argnums=(1, 4))


@partial(jax.jit, static_argnums=(1, 4))
def loss_and_gradients(params: Params, model: GPT, x: Array, y: Array, dtype: Dtype) -> tuple:
    """As in training: in float16 with a loss scale."""
    scaler = create_scaler(dtype, None, None)
    loss_fn = partial(trainer.loss_fn, model=model, x=x, y=y, dtype=dtype)
    loss, gradients = value_and_scaled_grad(loss_fn, scaler)(params)
    return loss, gradients if scaler is None else unscale(gradients, scaler)[0]


def require(device: Device, dtype: Dtype) -> None:
    """Raise `InputError` if the twin cannot compute on the device in `dtype`."""
    with kept_jax_config():
        select_device(device, dtype)


def outcome(
    checkpoint: Checkpoint,
    x: Array,
    y: Array,
    dtype: Dtype,
    device: Device,
    compiled: bool = True,
    fast: bool = False,
) -> Outcome:
    """The loss and the gradients are those of `GPT.loss`, the trainer's, where it is `fast`.

    In float16 they are computed with a loss scale, as in training.
    """
    with kept_jax_config(), contextlib.nullcontext() if compiled else jax.disable_jit():
        select_device(device, dtype)
        ops = FastOps(True, True, True, loss_rows=512) if fast else None
        params, model = load_model(checkpoint, dtype, ops)
        inputs = params, model, x.astype(np.int32), y.astype(np.int32), dtype
        if fast or dtype == "float16":
            _, layers = loss_and_layers(*inputs)
            loss, gradients = loss_and_gradients(*inputs)
        else:
            (loss, layers), gradients = value_and_grad(*inputs)
        layers = {name: np.asarray(layer, np.float64) for name, layer in layers.items()}
        return Outcome(layers, loss.item(), to_hf(gradients, checkpoint.config))


def train(config: TrainConfig) -> None:
    with kept_jax_config():
        trainer.train(config)


def evaluation(start: Checkpoint, loader: BatchLoader, steps: int) -> float:
    with kept_jax_config():
        select_device("cpu", "float64")
        return trainer.evaluate(*load_model(start, "float64"), loader, steps, "float64")


def completions(
    start: Checkpoint,
    prompts: list[list[int]],
    how: tuple,
    dtype: Dtype,
    device: Device,
    exact: bool,
) -> list[Completion]:
    with kept_jax_config():
        select_device(device, dtype)
        params, model = prepare_for_inference(*load_model(start, dtype), dtype)
        return generate(params, model, prompts, *how, dtype, exact)


def inference_logits(start: Checkpoint, x: Array) -> Array:
    with kept_jax_config():
        select_device("cpu", "float32")
        params, model = prepare_for_inference(*load_model(start, "float32"), "float32")
        return np.asarray(jax.jit(model.apply)({"params": params}, x.astype(np.int32))[0])


def loaded(start: Checkpoint) -> tuple:
    """The first arguments of the twin's functions of a model, in float32."""
    return load_model(start, "float32")


def logprobs(start: Checkpoint, dtype: Dtype, device: Device) -> Logprobs:
    def compute(x: Array, y: Array) -> Array:
        with kept_jax_config():
            select_device(device, dtype)
            return numpy_logprobs(*load_model(start, dtype), dtype)(x, y)

    return compute


def causal_attention(q: Array, k: Array, v: Array, dtype: Dtype) -> Array:
    """Queries, keys and values are `(B, nh, T, hs)`, and so is what it returns."""
    with jax.enable_x64(True):
        y = gpt.causal_attention(*(a.swapaxes(1, 2) for a in cast([q, k, v], dtype)))
        return np.asarray(y.swapaxes(1, 2), np.float64)


def cross_entropy(logits: Array, targets: Array, dtype: Dtype) -> Array:
    with jax.enable_x64(True):
        return np.asarray(gpt.cross_entropy(*cast([logits], dtype), targets))


def block(start: Checkpoint, x: Array, dtype: Dtype) -> Array:
    """The first one's output."""
    with kept_jax_config():
        select_device("cpu", dtype)
        params, _ = load_model(start, dtype)
        first = {"params": params["h_0"]}
        inputs = cast([x], "float64" if dtype == "float64" else "float32")
        with autocast(dtype):
            return np.asarray(gpt.Block(start.config).apply(first, *inputs), np.float64)


def clip_by_global_norm(gradients: list[Array], max_norm: float, dtype: Dtype) -> list[Array]:
    with jax.enable_x64(True):
        clipped, _ = optimizer.clip_by_global_norm(cast(gradients, dtype), max_norm)
        return [np.asarray(gradient) for gradient in clipped]


def cast(values: list[Array], dtype: Dtype) -> list[jax.Array]:
    return [jax.numpy.asarray(value, dtype) for value in values]
