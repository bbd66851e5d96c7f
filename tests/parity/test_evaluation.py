"""Evaluation of both twins against the reference, one ending and one token at a time."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.hellaswag import answers, batches, encode_examples, read_examples
from gpt_common.scoring import Windows, mean_loss
from gpt_common.tokenizer import encode
from tests.conftest import random_weights
from tests.parity.reference import ReferenceGPT, softmax
from tests.parity.tolerances import FAST_LIMITS
from tests.parity.twins import FRAMEWORKS, logprobs

MINIATURE = Path(__file__).parents[1] / "hellaswag.jsonl"
MODEL = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=60)
PROTOCOLS = ("build-nanogpt", "lm-eval")
# Relative differences of sums of log-probabilities: ten times the largest seen.
TOLERANCES = {"float64": 4e-15, "float32": 6e-7}


@cache
def start() -> Checkpoint:
    return Checkpoint(MODEL, random_weights(MODEL, scale=0.5))


def token_logprobs(model: ReferenceGPT, tokens: list[int]) -> list[float]:
    """log p of every token but the first."""
    inputs = np.array([tokens[:-1]])
    p = softmax(model(inputs, inputs).logits[0])
    return [float(np.log(p[t, token])) for t, token in enumerate(tokens[1:])]


def build_nanogpt(entry: dict, ending: str) -> tuple[list[int], list[int], int]:
    """Context, ending and what the sum is divided by, as karpathy's hellaswag.py renders them."""
    tokens = encode(" " + ending)
    return encode(entry["ctx"]), tokens, len(tokens)


def lm_eval(entry: dict, ending: str) -> tuple[list[int], list[int], int]:
    """The same as lm_eval/tasks/hellaswag/utils.py and `_encode_pair` of lm_eval/api/model.py."""
    b = entry["ctx_b"]
    context = without_marks(
        entry["activity_label"] + ": " + entry["ctx_a"] + " " + b[:1].upper() + b[1:].lower()
    )
    ending = without_marks(ending)
    continuation = " " + ending
    while context.endswith(" "):
        context, continuation = context[:-1], " " + continuation
    split = len(encode(context))
    whole = encode(context + continuation)
    return whole[:split], whole[split:], len(ending)


def without_marks(text: str) -> str:
    text = ". ".join(text.strip().split(" [title]"))
    text = "".join(re.split(r"\[[^\]]*\]", text))
    return " ".join(text.split("  "))


@cache
def expected(protocol: str) -> list[tuple[list[float], int, int]]:
    """For each example the sums, and the two answers; without a batch, padding or a mask."""
    model = ReferenceGPT(MODEL, start().weights)
    found = []
    for line in MINIATURE.read_text().splitlines():
        entry, sums, means = json.loads(line), [], []
        for text in entry["endings"]:
            encoded = {"build-nanogpt": build_nanogpt, "lm-eval": lm_eval}[protocol](entry, text)
            context, ending, length = encoded
            row = (context + ending)[-MODEL.block_size - 1 :]
            sums.append(sum(token_logprobs(model, row)[-len(ending) :]))
            means.append(sums[-1] / length)
        for scores in (sums, means):  # else rounding could change an answer
            best, second = sorted(scores)[:-3:-1]
            assert second / best - 1 > 1e-4
        found.append((sums, sums.index(max(sums)), means.index(max(means))))
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_miniature_tells_the_protocols_apart(protocol):
    """Its answers differ by sum and by mean, and between the protocols."""
    _, choices, choices_norm = zip(*expected(protocol), strict=True)
    assert len(set(choices)) > 1
    assert len(set(choices_norm)) > 2
    other = PROTOCOLS[1 - PROTOCOLS.index(protocol)]
    assert choices_norm != tuple(norm for _, _, norm in expected(other))
    assert sum(a != b for a, b in zip(choices, choices_norm, strict=True)) > 3


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_hellaswag_example_by_example(framework, protocol, dtype):
    examples = encode_examples(read_examples(str(MINIATURE)), protocol, MODEL)
    compute = logprobs(framework, start(), dtype)
    found = {
        id(example): answer
        for batch in batches(examples, MODEL.block_size, batch_size=20)
        for example, answer in zip(batch.examples, answers(batch, compute), strict=True)
    }
    for example, (sums, choice, choice_norm) in zip(examples, expected(protocol), strict=True):
        answer = found[id(example)]
        np.testing.assert_allclose(answer.logprobs, sums, rtol=TOLERANCES[dtype])
        assert (answer.choice, answer.choice_norm) == (choice, choice_norm)


@pytest.mark.parametrize(("count", "stride"), [(100, 7), (70, 23), (24, 1), (9, 5), (2, 23)])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_loss_of_a_text_token_by_token(framework, count, stride, odd_config):
    """Each token but the first is predicted once, by the first window that reaches it."""
    checkpoint = Checkpoint(odd_config, random_weights(odd_config))
    model, L = ReferenceGPT(odd_config, checkpoint.weights), odd_config.block_size
    tokens = np.random.default_rng(count).integers(0, odd_config.vocab_size, count)
    losses = []
    for i in range(1, count):
        start = max(0, -(-(i - L) // stride)) * stride
        losses.append(-token_logprobs(model, tokens[start : i + 1].tolist())[-1])
    windows = Windows(tokens.astype(np.uint16), L, stride)
    compute = logprobs(framework, checkpoint, "float64")
    found = mean_loss(windows, 4, compute)
    assert found == pytest.approx(np.mean(losses), rel=TOLERANCES["float64"])
    assert len(list(windows)) == len(windows)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_16_bits_are_used_and_close(framework, dtype, odd_config):
    checkpoint = Checkpoint(odd_config, random_weights(odd_config))
    tokens = np.random.default_rng(1).integers(0, odd_config.vocab_size, 90).astype(np.uint16)
    windows = Windows(tokens, odd_config.block_size, 10)
    losses = {
        name: mean_loss(windows, 4, logprobs(framework, checkpoint, name))
        for name in ("float32", dtype)
    }
    difference = abs(losses[dtype] / losses["float32"] - 1)
    assert 1e-7 < difference < FAST_LIMITS[dtype].loss
