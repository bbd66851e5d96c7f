"""Continuations of prompts during generation: their tokens, text and stopping conditions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gpt_common import tokenizer
from gpt_common.config import DtypeOption, GPTConfig, SamplingOptions, StoppingOptions
from gpt_common.errors import InputError, NonFiniteError
from gpt_common.memory import require_memory
from gpt_common.sampling import uniforms

FinishReason = Literal["length", "end", "stop"]

# Tokens per call of the device: few, so that text streams and generation stops early, but more than
# one, so that a GPU is not synchronized after every token.
CHUNK = 4

# Upper bounds of the logits' rounding error, relative to the largest logit: more than five times
# the largest measured for GPT-2 124M (float32 1.8e-6: Flax, one row, cached; uncached 1.4e-6 over
# 1,024 tokens; models of width 40 and 64 at most 8e-7; float64 3e-15; bfloat16 7e-3; not tf32).
ROUNDING: dict[DtypeOption, float] = {
    "float64": 1e-13,
    "float32": 1e-5,
    "tf32": 1e-2,
    "bfloat16": 5e-2,
    "float16": 1e-2,
}


class SampledTokens(NamedTuple):
    """Sampled tokens: scalars for one token, arrays `(n, R)` for a chunk of R continuations.

    `logprob` is the log-probability under the model's own logits, in nats. `margin` is the error of
    the logits, relative to the largest, below which the same token is sampled.
    """

    token: npt.NDArray[np.int64]
    logprob: npt.NDArray[np.float64]
    margin: npt.NDArray[np.float64]


class Detokenizer:
    """Incremental detokenizer. `text` is final: it only ever gets longer.

    An incomplete UTF-8 character and a possible beginning of a stop text are pending.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def add(self, token: int) -> None:
        """Add a token."""
        self._append(self._decoder.decode(tokenizer.token_bytes(token)))

    def end(self) -> None:
        """Flush pending text after the last token."""
        self._append(self._decoder.decode(b"", final=True))
        if not self.stopped:
            self.text, self._pending = self.text + self._pending, ""

    def _append(self, text: str) -> None:
        if self.stopped:
            return
        self._pending += text
        found = [index for stop in self._stop if (index := self._pending.find(stop)) >= 0]
        self.stopped = bool(found)
        final = min(found) if found else len(self._pending) - self._partial_stop_length()
        self.text, self._pending = self.text + self._pending[:final], self._pending[final:]

    def _partial_stop_length(self) -> int:
        """Return the length of the longest end of the pending text that begins a stop text."""
        beginnings = (stop[:n] for stop in self._stop for n in range(1, len(stop)))
        return max((len(text) for text in beginnings if self._pending.endswith(text)), default=0)


@dataclass
class Completion:
    """One continuation of a prompt.

    `sample` is its index among those of the same prompt. `finish` is None while it is unfinished,
    then "length", "end" (`<|endoftext|>`, which is in `tokens` but not in `text`) or "stop".
    """

    prompt: list[int]
    sample: int
    max_length: int  # in tokens, prompt included
    detokenizer: Detokenizer
    end_token: int | None = tokenizer.END_OF_TEXT_TOKEN
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    exact_tokens: list[int] = field(default_factory=list)  # indices of those sampled in float64
    finish: FinishReason | None = None

    @property
    def text(self) -> str:
        """The final text of `tokens`."""
        return self.detokenizer.text

    @property
    def num_tokens(self) -> int:
        """Number of tokens so far, prompt included."""
        return len(self.prompt) + len(self.tokens)

    @property
    def num_remaining(self) -> int:
        """Largest number of tokens still to be generated; 0 when finished."""
        return 0 if self.finish else self.max_length - self.num_tokens

    def add(self, sampled: SampledTokens, exact: bool = False) -> None:
        """Add a token unless finished; `exact` if it was sampled from float64 logits.

        Raises `NonFiniteError` if the logits were not finite.
        """
        if self.finish:
            return
        if not np.isfinite(sampled.logprob):
            raise NonFiniteError(f"token {len(self.tokens)}: the model's logits are not finite")
        if exact:
            self.exact_tokens.append(len(self.tokens))
        self.tokens.append(int(sampled.token))
        self.logprobs.append(float(sampled.logprob))
        self.margins.append(float(sampled.margin))
        if self.tokens[-1] == self.end_token:
            self.finish = "end"
        else:
            self.detokenizer.add(self.tokens[-1])
            if self.detokenizer.stopped:
                self.finish = "stop"
            elif not self.num_remaining:
                self.finish = "length"
        if self.finish:
            self.detokenizer.end()

    def borderline_tokens(self, dtype: DtypeOption) -> list[int]:
        """Return the indices of `tokens` whose margin is within the rounding error of `dtype`.

        For `exact_tokens` it is the rounding error of float64.
        """
        exact = set(self.exact_tokens)
        limits = (ROUNDING["float64" if i in exact else dtype] for i in range(len(self.tokens)))
        return [i for i, limit in enumerate(limits) if self.margins[i] <= limit]


def start_completions(
    prompts: Sequence[Sequence[int]],
    num_samples: int,
    sampling: SamplingOptions,
    stopping: StoppingOptions,
    config: GPTConfig,
) -> list[Completion]:
    """Return `num_samples` new continuations of each prompt; an empty prompt is `<|endoftext|>`.

    Raises `InputError` if the prompts or options do not fit the model, or memory is too small.
    """
    rows = [[int(token) for token in prompt] or [tokenizer.END_OF_TEXT_TOKEN] for prompt in prompts]
    check_prompts(rows, sampling, stopping, config)
    check_memory(rows, num_samples, stopping, config)
    end_token = None if stopping.ignore_end else tokenizer.END_OF_TEXT_TOKEN
    completions = []
    for prompt in rows:
        length = stopping.total_length(len(prompt))
        for sample in range(num_samples):
            detokenizer = Detokenizer(stopping.stop)
            completions.append(Completion(prompt, sample, length, detokenizer, end_token))
    return completions


def check_prompts(
    prompts: list[list[int]],
    sampling: SamplingOptions,
    stopping: StoppingOptions,
    config: GPTConfig,
) -> None:
    """Raise `InputError` if there is no prompt, or the model cannot continue one as requested."""
    if not prompts:
        raise InputError("expected a prompt or more, got none")
    vocab_size = config.vocab_size
    if sampling.top_k > vocab_size:
        raise InputError(f"top_k must be at most vocab_size {vocab_size}, got {sampling.top_k}")
    for prompt in prompts:
        if wrong := [token for token in prompt if not 0 <= token < vocab_size]:
            raise InputError(
                f"expected a prompt of tokens below vocab_size {vocab_size}, got {wrong[0]}"
            )
        _check_length(len(prompt), stopping, config.block_size)


def _check_length(prompt_length: int, stopping: StoppingOptions, block_size: int) -> None:
    length = stopping.total_length(prompt_length)
    if length <= prompt_length:
        raise InputError(
            f"max_length must be above the prompt's {prompt_length} tokens, got {length} "
            f"(or give max_new_tokens)"
        )
    if length > block_size and not stopping.window:
        raise InputError(
            f"expected at most block_size {block_size} tokens, where learned positions "
            f"end, got {length} ({prompt_length} of the prompt); window goes past it"
        )


def check_memory(
    prompts: list[list[int]], num_samples: int, stopping: StoppingOptions, config: GPTConfig
) -> None:
    """Raise `InputError` if keys, values (of 2 bytes) and logits alone do not fit in memory."""
    length = min(max(stopping.total_length(len(prompt)) for prompt in prompts), config.block_size)
    row = 4 * config.n_layer * config.n_embd * length + 8 * config.vocab_size
    rows = num_samples * len(prompts)
    require_memory(rows * row, f"a batch of {rows} continuations", "--num_samples or --max_length")


def pad_inputs(completions: Sequence[Completion], block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last `block_size` tokens of each row, `(R, T)` int64, and their lengths, `(R,)`.

    Rows shorter than T are padded with zeros on the right.
    """
    rows = [(c.prompt + c.tokens)[-block_size:] for c in completions]
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max()), np.int64)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row)] = row
    return tokens, lengths


def add_chunk(completions: Sequence[Completion], chunk: SampledTokens) -> bool:
    """Add the tokens of a chunk `(n, R)` to each completion; return False: none was changed."""
    for step in zip(*chunk, strict=True):
        for completion, *sampled in zip(completions, *step, strict=True):
            completion.add(SampledTokens(*sampled))
    return False


def next_chunk_length(completions: Sequence[Completion], block_size: int) -> int:
    """Return the number of tokens in the next chunk; 0 when all continuations are finished.

    It is 1 when the context of a row is full: every token then needs a new prefill.
    """
    unfinished = [c for c in completions if c.num_remaining]
    room = min((block_size - c.num_tokens + 1 for c in unfinished), default=1)
    return min(CHUNK, max((c.num_remaining for c in unfinished), default=0), max(1, room))


def is_context_full(completions: Sequence[Completion], block_size: int) -> bool:
    """Whether the last token of an unfinished row is beyond the learned positions."""
    return any(c.num_remaining and c.num_tokens > block_size for c in completions)


def next_uniforms(
    seed: int, completions: Sequence[Completion], steps: int
) -> npt.NDArray[np.float64]:
    """Return the uniform samples for each row's next tokens, `(R, steps)`."""
    starts = [c.num_tokens for c in completions]
    return uniforms(seed, [c.sample for c in completions], steps, starts)


def last_tokens(
    completions: Sequence[Completion], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the last token of each row and its position in a cache of `length`, `(R, 1)` each."""
    tokens = [[c.tokens[-1]] for c in completions]
    return np.array(tokens), np.array([[min(c.num_tokens, length) - 1] for c in completions])


def seen_tokens(completions: Sequence[Completion], vocab_size: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the tokens that each row contains, `(R, V)`."""
    seen = np.zeros((len(completions), vocab_size), np.bool_)
    for row, completion in zip(seen, completions, strict=True):
        row[completion.prompt + completion.tokens] = True
    return seen
