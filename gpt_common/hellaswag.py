"""HellaSwag: contexts with four endings each, of which a model should find the right one likely.

Zellers et al. 2019, arXiv:1905.07830. Two protocols are in use, whose figures differ:

| | `build-nanogpt`, also llm.c's | `lm-eval`, EleutherAI's lm-evaluation-harness |
| --- | --- | --- |
| context | `ctx` | `activity_label: ctx_a Ctx_b`, without the marks of WikiHow |
| tokens | context and ending encoded apart | encoded together, then split |
| acc | the ending with the largest sum of log-probabilities | the same |
| acc_norm | the largest mean per token | the largest mean per character |
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_common.config import GPTConfig, HellaSwagProtocol, round_up
from gpt_common.downloads import Download
from gpt_common.errors import InputError, brief, reason
from gpt_common.scoring import Logprobs, Row, sum_logprobs
from gpt_common.texts import read_text
from gpt_common.tokenizer import VOCAB_SIZE, encode
from gpt_common.weights import Array

# Size and SHA-256 are those that TensorFlow Datasets has recorded.
VALIDATION = Download(
    url="https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
    sha256="0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
    size=12_246_618,
    filename="hellaswag_val.jsonl",
    flag="--hellaswag",
)
ENDINGS = 4
LABELS = ("0", "1", "2", "3")
LENGTH_STEP = 32  # lengths are rounded up to it: each length of a batch compiles in jax
TEXTS = ("activity_label", "ctx", "ctx_a", "ctx_b")


@dataclass(frozen=True)
class Example:
    """A line of HellaSwag's file; `source` is its file and line number."""

    source: str
    activity_label: str
    ctx: str
    ctx_a: str
    ctx_b: str
    endings: tuple[str, ...]
    label: int


class EncodedExample(NamedTuple):
    """The four rows of an example, the lengths that its scores are divided by, and the answer."""

    rows: tuple[Row, ...]
    lengths: tuple[int, ...]
    label: int


class Batch(NamedTuple):
    """Examples whose rows fit in `(B, T)` tokens."""

    shape: tuple[int, int]
    examples: list[EncodedExample]


class Answer(NamedTuple):
    """The log-probability of each ending `(4,)`, and the ending that a model prefers.

    It is that with the largest sum, or for `choice_norm` with the largest mean.
    """

    logprobs: Array
    choice: int
    choice_norm: int


class Counts(NamedTuple):
    """The number of right answers, by sum and by mean, and of examples: processes add them up."""

    correct: int
    correct_norm: int
    total: int


def read_examples(source: str, limit: int = 0) -> list[Example]:
    """Return the first `limit` examples, 0 for all, of a file; `val` is HellaSwag's, downloaded.

    Raises `InputError`, with the number of the line, if one is damaged.
    """
    if source == "val":
        path, content = VALIDATION.filename, VALIDATION.read()
    else:
        path, content = source, read_text(Path(source))
    lines = content.removesuffix(b"\n").split(b"\n")[: limit or None]
    return [parse_example(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def parse_example(line: bytes, source: str) -> Example:
    """Return the example of a line of JSON; `source` is for messages."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: expected a JSON object, got: {reason(error)}") from None
    if not isinstance(entry, dict):
        raise InputError(f"{source}: expected a JSON object, got {brief(entry)}")
    endings, label = entry.get("endings"), entry.get("label")
    if not isinstance(endings, list) or len(endings) != ENDINGS:
        got = f"{len(endings)}" if isinstance(endings, list) else brief(endings)
        raise InputError(f"{source}: endings: expected a list of {ENDINGS}, got {got}")
    if str(label) not in LABELS:  # text in the files of the Hugging Face Hub
        raise InputError(f"{source}: label: expected {', '.join(LABELS)}, got {brief(label)}")
    named = tuple(_text(ending, "endings", source) for ending in endings)
    texts = {name: _text(entry.get(name), name, source) for name in TEXTS}
    return Example(source, endings=named, label=LABELS.index(str(label)), **texts)


def _text(value: Any, name: str, source: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{source}: {name}: expected text, got {brief(value)}")
    return value


def encode_examples(
    examples: Sequence[Example], protocol: HellaSwagProtocol, model: GPTConfig
) -> list[EncodedExample]:
    """Return the examples as a model reads them.

    A row that is longer than the model's context loses its first tokens, as in lm-eval. Raises
    `InputError` for a model with another vocabulary, and for an ending that does not fit.
    """
    if not VOCAB_SIZE <= model.vocab_size <= round_up(VOCAB_SIZE, 128):
        raise InputError(
            f"HellaSwag: expected a model with GPT-2's vocabulary of {VOCAB_SIZE} tokens, "
            f"padded or not, got vocab_size {model.vocab_size}"
        )
    encode_endings = ENCODE[protocol]
    encoded = []
    for example in examples:
        contexts, endings, lengths = zip(*encode_endings(example), strict=True)
        rows = zip(contexts, endings, strict=True)
        cut = tuple(_fit(*row, model.block_size, example.source) for row in rows)
        encoded.append(EncodedExample(cut, lengths, example.label))
    return encoded


def _fit(context: list[int], ending: list[int], block_size: int, source: str) -> Row:
    if not context:
        raise InputError(f"{source}: expected a context, got an empty text")
    if not 0 < len(ending) <= block_size:
        raise InputError(
            f"{source}: expected an ending of 1 to block_size {block_size} tokens, "
            f"got {len(ending)}"
        )
    return Row((context + ending)[-block_size - 1 :], len(ending))


Encoded = Iterator[tuple[list[int], list[int], int]]  # context, ending, length for acc_norm


def encode_build_nanogpt(example: Example) -> Encoded:
    """Yield the tokens of each ending as build-nanogpt and llm.c encode them."""
    context = encode(example.ctx)
    for text in example.endings:
        ending = encode(" " + text)
        yield context, ending, len(ending)


def encode_lm_eval(example: Example) -> Encoded:
    """Yield the tokens of each ending as lm-evaluation-harness encodes them.

    White space at the end of the context belongs to the ending.
    """
    query = clean(f"{example.activity_label}: {example.ctx_a} {example.ctx_b.capitalize()}")
    context = query.rstrip()
    prefix = encode(context)
    for text in map(clean, example.endings):
        whole = encode(f"{query} {text}")
        yield prefix, whole[len(prefix) :], max(1, len(text))  # of marks alone nothing is left


ENCODE: dict[HellaSwagProtocol, Callable[[Example], Encoded]] = {
    "build-nanogpt": encode_build_nanogpt,
    "lm-eval": encode_lm_eval,
}


def clean(text: str) -> str:
    """Return a text without the marks of WikiHow's articles, as lm-evaluation-harness does."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def batches(
    examples: Sequence[EncodedExample],
    block_size: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> list[Batch]:
    """Return the examples in batches of about one length, the longest first.

    A batch has `batch_size` rows, four for each example. Process `rank` of `world_size` has every
    `world_size`-th example, and as many batches of each shape as the others have: its last one may
    be empty.
    """
    groups = defaultdict(list)
    for example in examples:
        longest = max(row.inputs for row in example.rows)
        groups[min(round_up(longest, LENGTH_STEP), block_size)].append(example)
    size, found = max(1, batch_size // ENDINGS), []
    for length, group in sorted(groups.items(), reverse=True):
        own = group[rank::world_size]
        for start in range(0, math.ceil(len(group) / world_size), size):
            found.append(Batch((size * ENDINGS, length), own[start : start + size]))
    return found


def answers(batch: Batch, logprobs: Logprobs) -> list[Answer]:
    """Return the answers to a batch; of equal scores the first one wins."""
    rows = [row for example in batch.examples for row in example.rows]
    sums = sum_logprobs(rows, batch.shape, logprobs).reshape(-1, ENDINGS)
    return [
        Answer(s, int(np.argmax(s)), int(np.argmax(s / np.array(example.lengths))))
        for example, s in zip(batch.examples, sums, strict=True)
    ]


def count_correct(
    batches: Sequence[Batch], logprobs: Logprobs, stopped: Callable[[], bool] = lambda: False
) -> Counts | None:
    """Return the counts of the examples in these batches, or None once `stopped()`."""
    correct, correct_norm = [], []
    for batch in batches:
        if stopped():
            return None
        for example, answer in zip(batch.examples, answers(batch, logprobs), strict=True):
            correct.append(answer.choice == example.label)
            correct_norm.append(answer.choice_norm == example.label)
    return Counts(sum(correct), sum(correct_norm), len(correct))
