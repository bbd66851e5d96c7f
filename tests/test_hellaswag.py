"""HellaSwag's file, its encoding by both protocols, and the answers, without a model."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from gpt_common import hellaswag, tokenizer
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError, NonFiniteError
from gpt_common.hellaswag import (
    Counts,
    answers,
    batches,
    count_correct,
    encode_examples,
    read_examples,
)

MINIATURE = Path(__file__).parent / "hellaswag.jsonl"
EXAMPLES = read_examples(str(MINIATURE))
ENTRY = json.loads(MINIATURE.read_text().splitlines()[0])
GPT2 = GPTConfig()


def encode(protocol, examples=EXAMPLES, model=GPT2):
    return encode_examples(examples, protocol, model)


def decoded(row):
    """The text before the ending, and the ending's."""
    split = len(row.tokens) - row.scored
    return tokenizer.decode(row.tokens[:split]), tokenizer.decode(row.tokens[split:])


def write(folder, *entries):
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


def test_labels_are_numbers_or_text():
    assert [example.label for example in EXAMPLES[:6]] == [0, 1, 2, 3, 0, 0]


def test_a_limit_takes_the_first_examples():
    assert read_examples(str(MINIATURE), 2) == EXAMPLES[:2]


@pytest.mark.parametrize(
    ("number", "ending", "before", "after", "length"),
    [
        (1, 0, "torn net. The older one threads a needle. the younger one", " sings.", 2),
        (3, 0, "Children wait at the top with sledges. One of THEM", " melts.", 2),
        (7, 2, "[title] Use short words. [step]", " [substeps] Eat the keyboard first.", 9),
    ],
)
def test_build_nanogpt_takes_the_texts_as_they_are(number, ending, before, after, length):
    example = encode("build-nanogpt")[number]
    context, text = decoded(example.rows[ending])
    assert context.endswith(before)
    assert (text, example.lengths[ending]) == (after, length)


@pytest.mark.parametrize(
    ("number", "ending", "before", "after", "length"),
    [
        (1, 0, "Mending a net: Two fishermen", " sings.", 6),  # characters, not tokens
        (3, 0, "with sledges. One of them", " melts.", 6),  # str.capitalize
        (6, 0, "balcony. Choose a pot. Take one", "  Fill it with", 58),
        # The space that "[step]" leaves at the context's end belongs to the ending
        (7, 0, "Computers: How to name a file. Use short words.", "  Long names", 32),
        (8, 2, "dark and cool. Close", " Lay the", 34),  # one of two spaces
        (10, 2, "She dips a brush into green paint.", " She paints.", 11),  # no ctx_b
    ],
)
def test_lm_eval_cleans_the_texts(number, ending, before, after, length):
    example = encode("lm-eval")[number]
    context, text = decoded(example.rows[ending])
    assert before in context
    assert context == context.rstrip()
    assert text.startswith(after)
    assert example.lengths[ending] == length


def test_the_tokens_of_an_example():
    """Che ss : An old ... takes it ."""
    row = encode("lm-eval")[11].rows[2]
    assert row.tokens[:5] == [7376, 824, 25, 1052, 1468]
    assert row.tokens[-row.scored :] == [2753, 340, 13]


@pytest.mark.parametrize("protocol", hellaswag.ENCODE)
def test_a_row_longer_than_the_context_loses_its_first_tokens(protocol):
    model = dataclasses.replace(GPT2, block_size=25)
    for example, short in zip(encode(protocol), encode(protocol, model=model), strict=True):
        for row, cut in zip(example.rows, short.rows, strict=True):
            assert cut.tokens == row.tokens[-26:]
            assert cut.scored == row.scored


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endings": ["a", "b", "c"]}, "endings: expected a list of 4, got 3"),
        ({"endings": "abcd"}, "endings: expected a list of 4, got 'abcd'"),
        ({"endings": ["a", "b", "c", 4]}, "endings: expected text, got 4"),
        ({"label": 4}, "label: expected 0, 1, 2, 3, got 4"),
        ({"label": ""}, "label: expected 0, 1, 2, 3, got ''"),  # the test split has no labels
        ({"label": True}, "label: expected 0, 1, 2, 3, got True"),
        ({"ctx_b": None}, "ctx_b: expected text, got None"),
    ],
)
def test_a_damaged_entry_is_named_by_file_and_line(changes, words, tmp_path):
    path = write(tmp_path, ENTRY, ENTRY | changes)
    with pytest.raises(InputError) as error:
        read_examples(path)
    assert str(error.value) == f"{path}:2: {words}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"ind": 1', "expected a JSON object, got: "),
        (b"[1]", "expected a JSON object, got list"),
        (b"", "expected a JSON object, got: "),
    ],
)
def test_a_damaged_line_is_named_by_file_and_line(line, words, tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_bytes(json.dumps(ENTRY).encode() + b"\n" + line + b"\n")
    with pytest.raises(InputError, match=rf"examples.jsonl:2: {words}"):
        read_examples(str(path))


def test_texts_that_cannot_be_scored(tmp_path):
    for changes, model, words in (
        ({"ctx": ""}, GPT2, r":1: expected a context, got an empty text"),
        ({"endings": ["a " * 30] * 4}, dataclasses.replace(GPT2, block_size=20), r"20 tokens, got"),
    ):
        examples = read_examples(write(tmp_path, ENTRY | changes))
        with pytest.raises(InputError, match=words):
            encode("build-nanogpt", examples, model)


@pytest.mark.parametrize(("vocab_size", "fits"), [(50256, False), (50304, True), (50305, False)])
def test_the_vocabulary_is_gpt2s(vocab_size, fits):
    model = dataclasses.replace(GPT2, vocab_size=vocab_size)
    if fits:
        assert encode("lm-eval", model=model) == encode("lm-eval")
    else:
        with pytest.raises(InputError, match=f"GPT-2's vocabulary .*, got vocab_size {vocab_size}"):
            encode("lm-eval", model=model)


def hashed_logprobs(x, y):
    """Log-probabilities that depend on a token and the one before it alone."""
    return -((7.0 * x + 13.0 * y) % 101 + 1) / 10


@pytest.mark.parametrize("protocol", hellaswag.ENCODE)
def test_counts_do_not_depend_on_the_batch_nor_on_the_number_of_processes(protocol):
    examples = encode(protocol)
    (whole,) = {
        count_correct(batches(examples, 1024, size), hashed_logprobs) for size in (1, 4, 7, 16, 99)
    }
    assert whole.total == len(examples)
    for world_size in (2, 3, 5, 30):
        shares = [batches(examples, 1024, 8, rank, world_size) for rank in range(world_size)]
        # Collective operations need equally many batches of the same shapes in each process.
        (shapes,) = {tuple(batch.shape for batch in share) for share in shares}
        assert len(shapes) >= 2
        counts = [count_correct(share, hashed_logprobs) for share in shares]
        assert Counts(*map(sum, zip(*counts, strict=True))) == whole


def test_batches_are_of_few_shapes_the_largest_first():
    found = [batch.shape for batch in batches(encode("lm-eval"), 1024, 10)]
    assert set(found) == {(8, 128), (8, 64), (8, 32)}
    assert found == sorted(found, reverse=True)
    assert [batch.shape[1] for batch in batches(encode("lm-eval"), 1024, 1)].count(128) == 1


def test_of_equal_endings_the_first_one_is_the_answer():
    (batch,) = batches(encode("lm-eval")[:1], 1024, 4)
    (answer,) = answers(batch, lambda x, y: np.zeros(x.shape))
    assert (answer.choice, answer.choice_norm) == (0, 0)


def test_a_model_that_has_diverged_has_no_answers():
    with pytest.raises(NonFiniteError, match="not finite"):
        count_correct(batches(encode("lm-eval"), 1024, 4), lambda x, y: np.full(x.shape, np.nan))


def test_a_signal_stops_between_batches():
    todo, calls = batches(encode("lm-eval"), 1024, 4), []
    stopped = lambda: calls.append(1) or len(calls) > 2  # noqa: E731
    assert count_correct(todo, hashed_logprobs, stopped) is None
    assert len(calls) == 3


def test_the_validation_file_is_downloaded_once(monkeypatch, tmp_path):
    served = tmp_path / "served.jsonl"
    served.write_bytes(MINIATURE.read_bytes())
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path / "cache"))
    changes = {"url": served.as_uri(), "size": served.stat().st_size}
    monkeypatch.setattr(
        hellaswag, "VALIDATION", dataclasses.replace(hellaswag.VALIDATION, **changes)
    )
    with pytest.raises(InputError, match=r"served\.jsonl: expected sha256 0aa3b888"):
        read_examples("val")
    changes["sha256"] = hashlib.sha256(served.read_bytes()).hexdigest()
    monkeypatch.setattr(
        hellaswag, "VALIDATION", dataclasses.replace(hellaswag.VALIDATION, **changes)
    )
    first = read_examples("val")
    served.unlink()
    assert read_examples("val") == first
    assert [e.endings for e in first] == [e.endings for e in EXAMPLES]
    assert first[2].source == "hellaswag_val.jsonl:3"
