"""Faults of the tokenizer."""

from tests.faults.fault import Fault

FAULTS = (
    Fault(
        "tokenizer: <|endoftext|> is text",
        "gpt_common/tokenizer.py::encode",
        'get_encoding().encode(text, allowed_special="all")',
        "get_encoding().encode(text, disallowed_special=())",
    ),
    Fault(
        "tokenizer: words are split without their space",
        "gpt_common/tokenizer.py::SPLIT_PATTERN",
        r'''r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"''',
        r'''r"'(?:[sdmt]|ll|ve|re)|\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"''',
    ),
    Fault(
        "tokenizer: long texts are cut after white space",
        "gpt_common/tokenizer.py::chunks",
        "cut.start()",
        "cut.end()",
    ),
    Fault(
        "tokenizer: <|endoftext|> in a corpus is text",
        "gpt_common/tokenizer.py::encode_corpus.encode_chunk",
        'encoding.encode_to_numpy(chunk, allowed_special="all")',
        "encoding.encode_to_numpy(chunk, disallowed_special=())",
    ),
    Fault(
        "a token that pads the vocabulary shows nothing",
        "gpt_common/tokenizer.py::token_bytes",
        r'"\ufffd".encode()',
        'b""',
    ),
    Fault(
        "the tokenizer does not know the model's length",
        "gpt_common/tokenizer.py::tokenizer_files",
        '"model_max_length": max_length',
        "**{}",
    ),
)
