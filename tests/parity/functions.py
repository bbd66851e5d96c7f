"""How far each function of the twins is from the reference, in the small model."""

import importlib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import Dtype, OptimizerOptions, SamplingOptions, StoppingOptions
from gpt_common.data import BatchLoader
from gpt_common.weights import Array
from tests.conftest import random_weights
from tests.parity import reference
from tests.parity.comparisons import SMALL, ragged_prompts, real_tokens, runs
from tests.parity.reference import Outcome, ReferenceGPT
from tests.parity.tolerances import (
    FAST_LIMITS,
    Differences,
    outcome_differences,
    relative,
    training_differences,
)
from tests.parity.twins import (
    FRAMEWORKS,
    completions,
    evaluation,
    inference_logits,
    logprobs,
    outcome,
    twin,
)

DTYPES: tuple[Dtype, ...] = ("float64", "float32", "bfloat16")
MODEL = (
    "A model of 3 layers, 5 heads, width 40 and 997 tokens; its weights are random and large, none "
    "of them 0 or 1. A pass over 3 x 17 tokens of Shakespeare; a run of ten steps of 4 x 23, "
    "AdamW at 1e-3, weight decay 0.1, clipping at 1."
)
# By part of the names of its layers and parameters.
MODULES = {"CausalSelfAttention": "attn", "MLP": "mlp", "layer_norm": "ln_"}


class Row(NamedTuple):
    """The largest difference of a function's output or of its parameters' gradients."""

    function: str  # "file.py::name", by its name in `gpt_torch`
    of: str  # "output" or "gradients"
    difference: float
    limit: str  # the name in `Limits`


def measure_functions(
    dtypes: Iterable[Dtype] = DTYPES, frameworks: Iterable[str] = FRAMEWORKS
) -> dict[str, Any]:
    """Return the difference of each function, by dtype and framework, beside its limit."""
    functions: dict[str, Any] = {}
    for dtype in dtypes:
        for framework in frameworks:
            for row in measured(framework, dtype):
                of = functions.setdefault(row.function, {}).setdefault(row.of, {})
                entry = of.setdefault(dtype, {"limit": getattr(FAST_LIMITS[dtype], row.limit)})
                entry[framework] = row.difference
    return functions


def measured(framework: str, dtype: Dtype) -> Iterator[Row]:
    """Yield all that is measured of a twin in a dtype."""
    yield from of_a_pass(framework, dtype)
    yield from of_layers(framework, dtype)
    yield from of_a_run(framework, dtype)
    yield from of_a_text(framework, dtype)
    if dtype != "bfloat16":  # which is for matrix products alone
        yield from of_numbers(framework, dtype)


@cache
def small() -> Checkpoint:
    return Checkpoint(SMALL, random_weights(SMALL))


@cache
def small_batch() -> tuple[Array, Array]:
    return reference.batch(real_tokens(SMALL.vocab_size), 0, 3, 17)


@cache
def expected() -> Outcome:
    return ReferenceGPT(SMALL, small().weights)(*small_batch())


def of_a_pass(framework: str, dtype: Dtype) -> Iterator[Row]:
    """Yield what a forward and backward pass shows, by the plain and by the fast operations."""
    how = SMALL, small().weights, *small_batch(), dtype
    plain, fast = (
        outcome_differences(outcome(framework, *how, fast=fast), expected())
        for fast in (False, True)
    )
    for module, part in MODULES.items():
        yield Row(f"model.py::{module}", "output", worst(plain, "layers", part), "layers")
        yield Row(f"model.py::{module}", "gradients", worst(plain, "gradients", part), "gradients")
    yield Row("model.py::Block", "gradients", worst(plain, "gradients", ".h."), "gradients")
    yield Row("model.py::GPT.head", "output", worst(plain, "logits"), "logits")
    yield Row("model.py::GPT", "output", worst(plain, "logits"), "logits")
    yield Row("fast.py::FastGPT.hidden", "output", worst(fast, "layers"), "layers")
    for name, found in {"model.py::GPT": plain, "fast.py::FastGPT": fast}.items():
        yield Row(f"{name}.loss", "output", worst(found, "loss"), "loss")
        yield Row(f"{name}.loss", "gradients", worst(found, "gradients"), "gradients")
    yield Row("model.py::GPT", "gradients", worst(plain, "gradients"), "gradients")


def worst(differences: Differences, quantity: str, part: str = "") -> float:
    """Return the largest difference of those whose names contain `part`."""
    return max(value for name, value in differences[quantity].items() if part in name)


def of_layers(framework: str, dtype: Dtype) -> Iterator[Row]:
    """Yield what is called alone: attention, and the first block with the embedding as input."""
    model, x = ReferenceGPT(SMALL, small().weights), expected().layers["embedding"]
    model(*small_batch())  # where it notes its layers
    found = twin(framework).block(small(), x, dtype)
    difference = relative(found, model.block(x, 0)[0])
    yield Row("model.py::Block", "output", difference, "layers")
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 17, 8))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(8) + np.triu(np.full((17, 17), -np.inf), 1)
    found = twin(framework).causal_attention(q, k, v, dtype)
    difference = relative(found, reference.softmax(scores) @ v)
    yield Row("model.py::causal_attention", "output", difference, "layers")


def of_numbers(framework: str, dtype: Dtype) -> Iterator[Row]:
    """Yield what computes in the weights' own dtype: loss, clipping, sampling, evaluation."""
    random, (_, y) = np.random.default_rng(0), small_batch()
    logits = random.standard_normal((3, 17, 997)).astype(dtype).astype(np.float64)
    loss, _ = reference.cross_entropy(logits, y)
    found = twin(framework).cross_entropy(logits, y, dtype)
    yield Row("model.py::cross_entropy", "output", abs(float(found) / loss - 1), "loss")
    gradients = [random.standard_normal((997, 40)), random.standard_normal(40)]
    factor = 1 / (np.sqrt(sum(np.sum(g**2) for g in gradients)) + 1e-6)
    clipped = twin(framework).clip_by_global_norm(gradients, 1.0, dtype)
    difference = max(relative(c, g * factor) for c, g in zip(clipped, gradients, strict=True))
    yield Row("optimizer.py::clip_by_global_norm", "output", difference, "norms")
    yield Row("sampling.py::sample", "output", of_sampling(framework, logits[0], dtype), "logits")
    if dtype == "float64":
        loader = BatchLoader(real_tokens(SMALL.vocab_size), 3, 17)
        loss = evaluation(framework, small(), loader, 1)
        yield Row("train.py::evaluate", "output", abs(loss / expected().loss - 1), "loss")
    else:
        logits = inference_logits(framework, small(), small_batch()[0])
        difference = relative(logits, expected().logits)
        yield Row("inference.py::prepare_for_inference", "output", difference, "logits")


def of_sampling(framework: str, logits: Array, dtype: Dtype) -> float:
    """Return the difference of the log-probabilities of tokens sampled from `(R, V)` logits."""
    sample = importlib.import_module(f"gpt_{framework}.sampling").sample_arrays
    uniforms = np.random.default_rng(1).random(len(logits))
    token, logprob, _ = sample(SamplingOptions(), logits.astype(dtype), uniforms, None)
    return relative(logprob, np.log(reference.softmax(logits))[np.arange(len(logits)), token])


def of_a_run(framework: str, dtype: Dtype) -> Iterator[Row]:
    """Yield what ten steps leave."""
    start = Checkpoint(SMALL, random_weights(SMALL, scale=0.05))
    tokens, options = real_tokens(SMALL.vocab_size), OptimizerOptions(learning_rate=1e-3)
    how = start, tokens, 4, 23, options, (10,), (dtype,)
    ((*_, found, after),) = runs(*how, frameworks=(framework,))
    differences = training_differences(found, after)
    yield Row("train.py::train_step", "output", worst(differences, "first_losses"), "first_losses")
    yield Row("optimizer.py::global_norm", "output", worst(differences, "norms"), "norms")
    for function, part in {"clip_and_update": "weights ", "state_to_hf": "exp_avg"}.items():
        difference = worst(differences, "weights", part)
        yield Row(f"optimizer.py::{function}", "output", difference, "weights")


def of_a_text(framework: str, dtype: Dtype) -> Iterator[Row]:
    """Yield log-probabilities: of tokens as they are generated with a cache, and of a text."""
    model = ReferenceGPT(SMALL, small().weights)

    def logprobs_of(x: Array, y: Array) -> Array:
        p = reference.softmax(model(x, y).logits)
        return np.log(np.take_along_axis(p, y[..., None], -1))[..., 0]

    x, y = small_batch()
    difference = relative(logprobs(framework, small(), dtype)(x, y), logprobs_of(x, y))
    yield Row("evaluate.py::token_logprobs", "output", difference, "logits")
    prompts, stopping = ragged_prompts(SMALL, 4), StoppingOptions(max_length=23)
    differences = []
    for c in completions(framework, small(), prompts, SamplingOptions(), stopping, 1, dtype):
        text = np.array([c.prompt + c.tokens])
        own = logprobs_of(text[:, :-1], text[:, 1:])[0, len(c.prompt) - 1 :]
        differences.append(relative(np.array(c.logprobs), own))
    yield Row("generate.py::generate", "output", max(differences), "logits")
