"""Both twins, and Hugging Face's GPT-2 as the outside judge: numpy in, numpy out."""

import dataclasses
from dataclasses import dataclass

import jax
import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt_common.checkpoint import Checkpoint, to_hugging_face
from gpt_common.config import GPTConfig
from gpt_common.weights import Weights
from gpt_flax.model import GPT as FlaxGPT
from gpt_flax.weights import from_neutral as flax_from_neutral
from gpt_flax.weights import to_neutral as flax_to_neutral
from gpt_torch.generate import load_model
from gpt_torch.weights import to_neutral as torch_to_neutral


@dataclass(frozen=True)
class Outcome:
    """What a model makes of a batch: logits `(B, T, V)`, the loss, each weight's gradient."""

    logits: np.ndarray
    loss: float
    gradients: Weights


def torch_outcome(config: GPTConfig, weights: Weights, x: np.ndarray, y: np.ndarray) -> Outcome:
    model = load_model(Checkpoint(config, weights), torch.float32, torch.device("cpu"))
    logits, loss = model(torch.from_numpy(x).long(), torch.from_numpy(y).long())
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return Outcome(logits.detach().numpy(), loss.item(), torch_to_neutral(gradients, config))


def flax_outcome(config: GPTConfig, weights: Weights, x: np.ndarray, y: np.ndarray) -> Outcome:
    params = flax_from_neutral(weights, config, np.float32)

    def loss_and_logits(params):
        logits, loss = FlaxGPT(config).apply({"params": params}, x, y)
        return loss, logits

    (loss, logits), gradients = jax.jit(jax.value_and_grad(loss_and_logits, has_aux=True))(params)
    return Outcome(np.asarray(logits), loss.item(), flax_to_neutral(gradients, config))


def hugging_face_model(config: GPTConfig, weights: Weights) -> GPT2LMHeadModel:
    """Return transformers' model in float64, filled by name: no code of ours maps the weights."""
    model = GPT2LMHeadModel(GPT2Config(**to_hugging_face(config))).double()
    state = {name: torch.from_numpy(w.astype(np.float64)) for name, w in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"]
    assert unexpected == []
    model.tie_weights()
    return model.train()  # without dropout: the configuration sets it to 0


def hugging_face_outcome(
    config: GPTConfig, weights: Weights, x: np.ndarray, y: np.ndarray
) -> Outcome:
    model = hugging_face_model(config, weights)
    logits = model(torch.from_numpy(x).long()).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(y).long().flatten()
    )
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return Outcome(logits.detach().numpy(), loss.item(), gradients)


OUTCOMES = {"torch": torch_outcome, "flax": flax_outcome}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the Euclidean distance over the norm of what is expected."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def with_changes(config: GPTConfig, **changes: object) -> GPTConfig:
    return dataclasses.replace(config, **changes)
