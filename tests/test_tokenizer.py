import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import GPT2TokenizerFast

from gpt_common import tokenizer
from gpt_common.errors import InputError

HARD_TEXTS = [
    "Hello, I'm a language model,",
    "emoji 😀 👩‍👩‍👧 é e\u0301, CJK 漢字 かな 한국어",
    "control \x00\x01\x1c\x1f\x7f\x85 characters",
    "a" + " " * 57 + "b\t\t\n\n\n  \n c   ",
    "<|endoftext|>one<|endoftext|>two",
    "\r\n\r\n x\u3000y\u00a0z\u2028w",
    "don't I'LL we've 123456 1½ ²",
]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, content in tokenizer.tokenizer_files(1024).items():
        (folder / name).write_bytes(content)
    return GPT2TokenizerFast.from_pretrained(folder)


def test_known_tokens():
    assert tokenizer.encode("Hello, I'm a language model,") == [
        15496, 11, 314, 1101, 257, 3303, 2746, 11,
    ]  # fmt: skip
    assert tokenizer.encode("<|endoftext|>") == [50256]


def test_first_line_of_tiny_shakespeare():
    text = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
    assert tokenizer.encode(text) == [
        5962, 22307, 25, 198, 8421, 356, 5120, 597, 2252, 11, 3285, 502, 2740, 13, 198, 198,
        3237, 25, 198, 5248, 461, 11, 2740, 13, 198,
    ]  # fmt: skip


def test_ranks_have_the_released_hash():
    """Of OpenAI's `encoder.json`, whose order is that of the ranks, re-made from the merges."""
    vocab = json.loads(tokenizer.tokenizer_files(1024)["vocab.json"])
    assert list(vocab.values()) == list(range(50257))
    assert hashlib.sha256(tokenizer.merges_file()).hexdigest() == tokenizer.MERGES_SHA256
    released = json.dumps(vocab).encode()
    expected = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    assert hashlib.sha256(released).hexdigest() == expected


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_texts_as_hugging_face(text, hugging_face):
    tokens = tokenizer.encode(text)
    assert tokens == hugging_face.encode(text)
    assert tokenizer.decode(tokens) == hugging_face.decode(tokens) == text


@given(text=st.text())
def test_any_text_as_hugging_face_and_back(hugging_face, text):
    tokens = tokenizer.encode(text)
    assert tokens == hugging_face.encode(text)
    assert tokenizer.decode(tokens) == text


@given(
    st.lists(st.sampled_from([" ", "\n", "a", "9", "!", "'s", "é", "\x1c", "\u3000"])),
    st.integers(1, 9),
)
@example(["a", "\n", "\n", "a"], 1)
def test_a_corpus_in_pieces_gives_the_same_tokens(parts, size):
    text = "".join(parts)
    pieces = list(tokenizer.chunks(text, size))
    assert "".join(pieces) == text
    assert [t for piece in pieces for t in tokenizer.encode(piece)] == tokenizer.encode(text)


def test_a_long_corpus_is_cut_and_gives_the_same_tokens():
    text = Path(tokenizer.__file__).with_name("assets").joinpath("shakespeare.txt").read_text()
    assert len(list(tokenizer.chunks(text, tokenizer.CHUNK_CHARACTERS))) > 3
    assert tokenizer.encode_corpus(text).tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("token", [-1, 50257, 50303])
def test_a_token_outside_the_vocabulary_is_refused(token):
    with pytest.raises(InputError, match=re.escape(f"got {token}")):
        tokenizer.decode([11, token])
