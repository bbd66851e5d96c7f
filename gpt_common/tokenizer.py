"""GPT-2's byte-pair encoding by tiktoken, from the packaged merges, without network access."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt
import tiktoken

from gpt_common.errors import InputError
from gpt_common.progress import progress

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_TOKEN = 50256
VOCAB_SIZE = 50257

# GPT-2's split into words, in tiktoken's equivalent but faster form.
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
CHUNK_CHARACTERS = 1 << 18
LARGE_TEXT = 20_000_000  # characters; one or two seconds on two processors


@cache
def get_encoding() -> tiktoken.Encoding:
    """Return tiktoken's GPT-2 encoding, built from the packaged merges."""
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=SPLIT_PATTERN,
        mergeable_ranks=mergeable_ranks(),
        special_tokens={END_OF_TEXT: END_OF_TEXT_TOKEN},
        explicit_n_vocab=VOCAB_SIZE,
    )


def encode(text: str) -> list[int]:
    """Return the tokens of `text`; `<|endoftext|>` becomes token 50256."""
    return get_encoding().encode(text, allowed_special="all")


def decode(tokens: Sequence[int]) -> str:
    """Return the text of `tokens`; bytes that are not UTF-8 become U+FFFD.

    Raises `InputError` for a token outside the vocabulary.
    """
    for token in tokens:
        if not 0 <= token < VOCAB_SIZE:
            raise InputError(f"expected tokens below {VOCAB_SIZE}, got {token}")
    return get_encoding().decode(tokens)


def token_bytes(token: int) -> bytes:
    """Return the bytes of a token; for one outside the vocabulary, U+FFFD."""
    known = 0 <= token < VOCAB_SIZE
    return get_encoding().decode_single_token_bytes(token) if known else "\ufffd".encode()


def encode_corpus(text: str) -> npt.NDArray[np.uint16]:
    """Return the tokens of a long text, `(N,)` uint16, encoded on all processors.

    They equal those of `encode`: the text is cut only where GPT-2's pattern splits it.
    """
    encoding = get_encoding()

    def encode_chunk(chunk: str) -> npt.NDArray[np.uint16]:
        tokens = encoding.encode_to_numpy(chunk, allowed_special="all").astype(np.uint16)
        advance(len(chunk))
        return tokens

    pool = ThreadPoolExecutor(os.cpu_count())  # tiktoken releases the GIL
    with progress("encoding text", len(text), LARGE_TEXT) as advance, pool:
        parts = list(pool.map(encode_chunk, chunks(text, CHUNK_CHARACTERS)))
    return np.concatenate([np.empty(0, np.uint16), *parts])


def encode_documents(pieces: Sequence[tuple[bool, str]]) -> npt.NDArray[np.uint16]:
    """Return the tokens of pieces of documents, `<|endoftext|>` before each that begins one.

    In a piece, `<|endoftext|>` is ordinary text. Lone surrogates become U+FFFD.
    """
    encoding, parts = get_encoding(), [np.empty(0, np.uint16)]
    for begins, text in pieces:
        if begins:
            parts.append(np.array([END_OF_TEXT_TOKEN], np.uint16))
        try:
            parts.append(encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16))
        except UnicodeEncodeError:  # which `encode_ordinary` handles
            parts.append(np.array(encoding.encode_ordinary(text), np.uint16))
    return np.concatenate(parts)


def chunks(text: str, size: int) -> Iterator[str]:
    """Yield `text` in pieces of at least `size` characters that can be encoded separately.

    The pattern always splits before white space that follows another character, so a cut there
    changes no token.
    """
    boundary = re.compile(r"(?<=\S)\s")
    start = 0
    while start < len(text):
        cut = boundary.search(text, start + size)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end


def merges_file() -> bytes:
    """Return the packaged merges, as OpenAI released them."""
    content = (resources.files("gpt_common") / "assets" / "vocab.bpe").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != MERGES_SHA256:
        raise InputError(f"vocab.bpe: expected sha256 {MERGES_SHA256}, got {digest}")
    return content


def mergeable_ranks() -> dict[bytes, int]:
    """Return the rank of each token, by its bytes: 256 single bytes, then one token per merge."""
    to_byte = {character: byte for byte, character in byte_characters().items()}
    ranks = {bytes([byte]): rank for rank, byte in enumerate(byte_characters())}
    for line in merges_file().decode().splitlines()[1:]:  # the first line is a version
        token = bytes(to_byte[character] for character in line if character != " ")
        ranks[token] = len(ranks)
    return ranks


def byte_characters() -> dict[int, str]:
    """Return the printable character for each byte in GPT-2's files, by rank.

    Printable Latin-1 comes first and is unchanged; the other bytes become U+0100 and following
    (`bytes_to_unicode` in OpenAI's GPT-2 release).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    return characters | {byte: chr(256 + i) for i, byte in enumerate(others)}


@cache
def tokenizer_files(max_length: int) -> dict[str, bytes]:
    """Return the files of Hugging Face's GPT-2 tokenizer, by name.

    It truncates to `max_length` tokens.
    """
    characters = byte_characters()
    vocab = {"".join(characters[b] for b in t): rank for t, rank in mergeable_ranks().items()}
    vocab[END_OF_TEXT] = END_OF_TEXT_TOKEN
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": max_length,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT),
    }
    return {
        "vocab.json": json.dumps(vocab, ensure_ascii=False).encode(),
        "merges.txt": merges_file(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
    }
