"""Continuations as they grow, and what is shown of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_common import tokenizer
from gpt_common.completion import (
    CHUNK,
    Detokenizer,
    SampledTokens,
    add_chunk,
    next_chunk_length,
    next_uniforms,
    pad_inputs,
    start_completions,
)
from gpt_common.config import GPTConfig, SamplingOptions, StoppingOptions
from gpt_common.errors import InputError, NonFiniteError


def streamed(tokens, stop=()):
    """Return the texts that are sure after each token and at the end, and the stream."""
    stream, texts = Detokenizer(stop), []
    for token in tokens:
        stream.add(token)
        texts.append(stream.text)
    stream.end()
    return [*texts, stream.text], stream


@given(st.lists(st.integers(0, 50255), max_size=40))
def test_text_grows_to_what_the_tokens_decode_to(tokens):
    """Also where the bytes of random tokens are no UTF-8."""
    texts, _ = streamed(tokens)
    for before, after in itertools.pairwise(texts):
        assert after.startswith(before)
    assert texts[-1] == tokenizer.decode(tokens)


@given(st.text(max_size=30))
def test_only_whole_characters_are_shown(text):
    texts, _ = streamed(tokenizer.encode(text.replace("<|endoftext|>", "")))
    for shown in texts:
        assert text.replace("<|endoftext|>", "").startswith(shown)


def test_a_character_over_several_tokens_is_held_back():
    tokens = tokenizer.encode("🦜!")
    assert len(tokens) == 4
    assert streamed(tokens)[0] == ["", "", "🦜", "🦜!", "🦜!"]


@given(
    text=st.text("ab c", max_size=20),
    stop=st.lists(st.text("abc ", min_size=1, max_size=4), max_size=3),
)
def test_stops_before_the_first_stop_text_wherever_tokens_end(text, stop):
    """Tokens of one byte, so that a stop text lies over several of them."""
    texts, stream = streamed([tokenizer.encode(c)[0] for c in text], stop)
    places = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    assert stream.stopped == bool(places)
    if places:  # of those that end first, the one that begins first
        assert texts[-1] == text[: min(places)[1]]
    else:
        assert texts[-1] == text
    assert all(texts[-1].startswith(shown) for shown in texts)


def test_the_beginning_of_a_stop_text_is_held_back_and_given_back():
    tokens = tokenizer.encode("one\n\ntwo\nthree")
    texts, stream = streamed(tokens, ("\nfour",))
    assert "one" in texts[0]
    assert stream.text == "one\n\ntwo\nthree"


def test_a_token_that_pads_the_vocabulary_is_shown():
    assert streamed([10, 50300, 11])[0][-1] == "+\ufffd,"


def started(prompts=((1, 2, 3),), count=1, config=None, **stopping):
    return start_completions(
        prompts, count, SamplingOptions(), StoppingOptions(**stopping), config or GPTConfig()
    )


def give(completions, *tokens, logprob=-1.0):
    rows = np.array([[token] * len(completions) for token in tokens])
    numbers = np.full(rows.shape, logprob)
    add_chunk(completions, SampledTokens(rows, numbers, np.abs(numbers)))


def test_ends_at_its_length_and_takes_no_more():
    (completion,) = started(max_length=6)
    assert completion.num_remaining == 3
    give([completion], 10, 11, 12, 13)
    assert completion.tokens == [10, 11, 12]
    assert (completion.finish, completion.num_remaining, completion.num_tokens) == ("length", 0, 6)
    assert completion.logprobs == [-1.0] * 3


@pytest.mark.parametrize(
    ("stopping", "tokens", "finish", "text"),
    [
        ({}, [10, 50256], "end", "+"),
        ({"ignore_end": True}, [10, 50256, 11, 12, 13], "length", "+<|endoftext|>,-."),
        ({"stop": (",-",)}, [10, 11, 12], "stop", "+"),
    ],
)
def test_how_it_ends(stopping, tokens, finish, text):
    (completion,) = started(max_new_tokens=5, **stopping)
    give(
        [completion], 10, 50256 if finish != "stop" else 11, *([11, 12, 13, 14][finish == "stop" :])
    )
    assert (completion.tokens, completion.finish, completion.text) == (tokens, finish, text)


def test_what_is_held_back_is_shown_where_the_text_ends():
    """The beginning of a text to stop before, and then `<|endoftext|>`."""
    (completion,) = started(max_new_tokens=5, stop=(",-",))
    give([completion], 10, 11)
    assert completion.text == "+"
    give([completion], 50256)
    assert (completion.finish, completion.text) == ("end", "+,")


def test_close_draws_are_those_that_rounding_may_have_decided():
    (completion,) = started(max_new_tokens=4)
    for margin, exact in ((1e-3, False), (1e-6, False), (1e-12, True), (1e-14, True)):
        completion.add(SampledTokens(10, -1.0, margin), exact)
    assert completion.borderline_tokens("float32") == [1, 3]
    assert completion.borderline_tokens("bfloat16") == [0, 1, 3]
    assert completion.exact_tokens == [2, 3]


def test_logits_that_are_not_finite():
    rows = started(max_length=9)
    give(rows, 5)
    with pytest.raises(NonFiniteError, match=r"token 1: .*not finite"):
        give(rows, 5, logprob=np.nan)


def test_samples_of_a_prompt_are_numbered():
    rows = started(prompts=([5], [6, 7]), count=2, max_new_tokens=3)
    assert [(c.prompt, c.sample, c.max_length) for c in rows] == [
        ([5], 0, 4),
        ([5], 1, 4),
        ([6, 7], 0, 5),
        ([6, 7], 1, 5),
    ]
    tokens, lengths = pad_inputs(rows, block_size=8)
    assert tokens.tolist() == [[5, 0], [5, 0], [6, 7], [6, 7]]
    assert lengths.tolist() == [1, 1, 2, 2]


def test_the_context_is_the_last_of_a_text():
    rows = started(prompts=([1, 2, 3, 4, 5],), max_new_tokens=3)
    give(rows, 6)
    assert pad_inputs(rows, block_size=4)[0].tolist() == [[3, 4, 5, 6]]


def test_a_window_of_any_length_takes_no_memory():
    rows = started(max_new_tokens=10**12, window=True)
    assert rows[0].num_remaining == 10**12
    assert next_uniforms(5, rows, 4).shape == (1, 4)
    give(rows, 9)
    assert (
        next_uniforms(5, rows, 3) == next_uniforms(5, started(max_new_tokens=9), 4)[:, 1:]
    ).all()


def test_chunks_end_with_the_longest_and_at_the_context():
    rows = started(max_new_tokens=CHUNK + 2)
    assert next_chunk_length(rows, 1024) == CHUNK
    give(rows, *[9] * CHUNK)
    assert next_chunk_length(rows, 1024) == 2
    assert next_chunk_length(rows, 3 + CHUNK) == 1
    give(rows, 9, 9)
    assert next_chunk_length(rows, 1024) == 0


def test_an_empty_prompt_starts_a_text():
    assert started(prompts=([],))[0].prompt == [50256]


@pytest.mark.parametrize(
    ("prompts", "stopping", "words"),
    [
        ([], {}, "a prompt or more, got none"),
        ([[1] * 8], {"max_length": 8}, "above the prompt's 8 tokens, got 8"),
        ([[1]], {"max_length": 24}, "at most block_size 23 tokens.*got 24"),
        ([[1] * 20], {"max_new_tokens": 4}, r"got 24 \(20 of the prompt\); window"),
        ([[1, 997]], {"max_length": 9}, "below vocab_size 997, got 997"),
    ],
)
def test_what_a_model_cannot_continue_is_refused(prompts, stopping, words, odd_config):
    with pytest.raises(InputError, match=words):
        started(prompts, config=odd_config, **stopping)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SamplingOptions(temperature=-1), "temperature must not be negative"),
        (lambda: SamplingOptions(top_p=0), "top_p must be positive, got 0"),
        (lambda: SamplingOptions(top_p=1.1), "top_p must be at most 1, got 1.1"),
        (lambda: SamplingOptions(min_p=1), "min_p must be at least 0 and below 1"),
        (lambda: SamplingOptions(repetition_penalty=0), "repetition_penalty must be positive"),
        (lambda: StoppingOptions(max_length=3, max_new_tokens=3), "got both: 3 and 3"),
        (lambda: StoppingOptions(max_new_tokens=0), "max_new_tokens must be positive"),
        (lambda: StoppingOptions(stop=("a", "")), "got an empty one"),
        (lambda: started(config=GPTConfig(vocab_size=49)), "at most vocab_size 49, got 50"),
        (lambda: started(count=10**7), "a batch of 10000000 continuations takes at least"),
        (lambda: started(count=10**12), "a batch of 1000000000000 continuations takes at least"),
    ],
)
def test_options_out_of_range(make, words):
    with pytest.raises(InputError, match=words):
        make()
