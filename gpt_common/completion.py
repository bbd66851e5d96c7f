"""Continuations as they grow: their tokens, their text, and where they end."""

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

# Tokens that a twin makes before it looks at them. A few, so that a text is shown as it grows and
# ends soon after its end, yet a GPU is not asked after every token.
CHUNK = 4

# The error of a logit over the largest that is taken for rounding: more than five times the largest
# that GPT-2 124M has shown (float32 1.8e-6: Flax, one row, cached; uncached 1.4e-6 of 1,024 tokens;
# models of width 40 and 64 at most 8e-7; float64 3e-15; bfloat16 7e-3; no tf32).
ROUNDING: dict[DtypeOption, float] = {
    "float64": 1e-13,
    "float32": 1e-5,
    "tf32": 1e-2,
    "bfloat16": 5e-2,
}


class SampledTokens(NamedTuple):
    """Sampled tokens: one number each for one token, `(n, R)` for a chunk of R continuations.

    `logprob` is the token's log-probability under the model itself, in nats. `margin` is the error
    of all logits, as a share of the largest, up to which the same token is sampled.
    """

    token: npt.NDArray[np.int64]
    logprob: npt.NDArray[np.float64]
    margin: npt.NDArray[np.float64]


class Detokenizer:
    """Text from tokens as they come, held back until it is sure.

    What is not sure yet: a character whose bytes are not all there, and the beginning of a text to
    stop before.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def add(self, token: int) -> None:
        """Take one more token."""
        self._take(self._decoder.decode(tokenizer.token_bytes(token)))

    def end(self) -> None:
        """Take it that no more tokens come."""
        self._take(self._decoder.decode(b"", final=True))
        if not self.stopped:
            self.text, self._pending = self.text + self._pending, ""

    def _take(self, more: str) -> None:
        if self.stopped:
            return
        self._pending += more
        found = [place for stop in self._stop if (place := self._pending.find(stop)) >= 0]
        self.stopped = bool(found)
        sure = min(found) if found else len(self._pending) - self._beginning_of_stop()
        self.text, self._pending = self.text + self._pending[:sure], self._pending[sure:]

    def _beginning_of_stop(self) -> int:
        """Return the length of the longest end of the held text that a stop text begins with."""
        return max(
            (
                n
                for stop in self._stop
                for n in range(1, len(stop))
                if self._pending.endswith(stop[:n])
            ),
            default=0,
        )


@dataclass
class Completion:
    """One continuation of a prompt.

    `finish` says why it ended: its length, `<|endoftext|>` (the last of its tokens, not of its
    text), or a text to stop before. `sample` is its number among those of the same prompt. The
    numbers of `exact_draws`, those decided in float64, are of the float64 logits.
    """

    prompt: list[int]
    sample: int
    length: int  # prompt included, at which it ends
    stream: Detokenizer
    end_token: int | None = tokenizer.END_OF_TEXT_TOKEN
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    exact_draws: list[int] = field(default_factory=list)  # indices of `tokens`
    finish: FinishReason | None = None

    @property
    def text(self) -> str:
        """The text of `tokens` so far, as much of it as is sure."""
        return self.stream.text

    @property
    def num_tokens(self) -> int:
        """Tokens so far, prompt included."""
        return len(self.prompt) + len(self.tokens)

    @property
    def num_remaining(self) -> int:
        """Tokens that are still to be made, at most."""
        return 0 if self.finish else self.length - self.num_tokens

    def add(self, drawn: SampledTokens, exact: bool = False) -> None:
        """Take one more token, `exact` where float64 decided.

        Raises `NonFiniteError` where the logits were not finite.
        """
        if self.finish:
            return
        if not np.isfinite(drawn.logprob):
            raise NonFiniteError(f"token {len(self.tokens)}: the model's logits are not finite")
        if exact:
            self.exact_draws.append(len(self.tokens))
        self.tokens.append(int(drawn.token))
        self.logprobs.append(float(drawn.logprob))
        self.margins.append(float(drawn.margin))
        if self.tokens[-1] == self.end_token:
            self.finish = "end"
        else:
            self.stream.add(self.tokens[-1])
            if self.stream.stopped:
                self.finish = "stop"
            elif not self.num_remaining:
                self.finish = "length"
        if self.finish:
            self.stream.end()

    def borderline_tokens(self, dtype: DtypeOption) -> list[int]:
        """Return the indices of `tokens` that rounding in `dtype` may have decided.

        Of those that float64 has decided, its own rounding.
        """
        exact = set(self.exact_draws)
        limits = (ROUNDING["float64" if i in exact else dtype] for i in range(len(self.tokens)))
        return [i for i, limit in enumerate(limits) if self.margins[i] <= limit]


def start_completions(
    prompts: Sequence[Sequence[int]],
    num_samples: int,
    sampling: SamplingOptions,
    stopping: StoppingOptions,
    config: GPTConfig,
) -> list[Completion]:
    """Return `num_samples` continuations of each prompt, all still to be made.

    An empty prompt is `<|endoftext|>`. Raises `InputError` where the model cannot make them.
    """
    if not prompts:
        raise InputError("expected a prompt or more, got none")
    if sampling.top_k > config.vocab_size:
        raise InputError(
            f"top_k must be at most vocab_size {config.vocab_size}, got {sampling.top_k}"
        )
    rows = [[int(token) for token in given] or [tokenizer.END_OF_TEXT_TOKEN] for given in prompts]
    for prompt in rows:
        check_prompt(prompt, stopping.end(len(prompt)), stopping, config)
    check_memory(rows, num_samples, stopping, config)
    completions = []
    for prompt in rows:
        length = stopping.end(len(prompt))
        for sample in range(num_samples):
            end = None if stopping.ignore_end else tokenizer.END_OF_TEXT_TOKEN
            stream = Detokenizer(stopping.stop)
            completions.append(Completion(prompt, sample, length, stream, end))
    return completions


def check_prompt(
    prompt: list[int], length: int, stopping: StoppingOptions, config: GPTConfig
) -> None:
    """Raise `InputError` where the model cannot continue the prompt to `length` tokens."""
    if wrong := [token for token in prompt if not 0 <= token < config.vocab_size]:
        raise InputError(
            f"expected a prompt of tokens below vocab_size {config.vocab_size}, got {wrong[0]}"
        )
    if length <= len(prompt):
        raise InputError(
            f"max_length must be above the prompt's {len(prompt)} tokens, got {length} "
            f"(or give max_new_tokens)"
        )
    if length > config.block_size and not stopping.window:
        raise InputError(
            f"expected at most block_size {config.block_size} tokens, where learned positions "
            f"end, got {length} ({len(prompt)} of the prompt); window goes past it"
        )


def check_memory(
    prompts: list[list[int]], num_samples: int, stopping: StoppingOptions, config: GPTConfig
) -> None:
    """Raise `InputError` where keys, values (of 2 bytes) and logits alone are too much to hold."""
    length = min(max(stopping.end(len(prompt)) for prompt in prompts), config.block_size)
    row = 4 * config.n_layer * config.n_embd * length + 8 * config.vocab_size
    rows = num_samples * len(prompts)
    require_memory(rows * row, f"a batch of {rows} continuations", "--num_samples or --max_length")


def pad_inputs(completions: Sequence[Completion], block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the model reads, `(R, T)` int64, and the length of each row, `(R,)`.

    That is the last `block_size` tokens of each; the rows are as long as the longest, and what
    follows the end of the others means nothing.
    """
    rows = [(c.prompt + c.tokens)[-block_size:] for c in completions]
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max()), np.int64)
    for row, given in zip(tokens, rows, strict=True):
        row[: len(given)] = given
    return tokens, lengths


def add_chunk(completions: Sequence[Completion], chunk: SampledTokens) -> bool:
    """Give each continuation its tokens of a chunk `(n, R)`; return whether one was changed: no."""
    for step in zip(*chunk, strict=True):
        for completion, *drawn in zip(completions, *step, strict=True):
            completion.add(SampledTokens(*drawn))
    return False


def next_chunk_length(completions: Sequence[Completion], block_size: int) -> int:
    """Return how many tokens the next chunk should have; 0 where all continuations have ended.

    Where a row has come to `block_size` it is 1, and the tokens are to be encoded anew.
    """
    growing = [c for c in completions if c.num_remaining]
    room = min((block_size - c.num_tokens + 1 for c in growing), default=1)
    return min(CHUNK, max((c.num_remaining for c in growing), default=0), max(1, room))


def is_context_full(completions: Sequence[Completion], block_size: int) -> bool:
    """Whether the last token of a row that still grows stands beyond the learned positions."""
    return any(c.num_remaining and c.num_tokens > block_size for c in completions)


def next_uniforms(
    seed: int, completions: Sequence[Completion], steps: int
) -> npt.NDArray[np.float64]:
    """Return the uniform numbers that decide each row's next tokens, `(R, steps)`."""
    starts = [c.num_tokens for c in completions]
    return uniforms(seed, [c.sample for c in completions], steps, starts)


def last_tokens(
    completions: Sequence[Completion], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the last token of each row and its position in a cache of `length`, `(R, 1)` each."""
    tokens = [[c.tokens[-1]] for c in completions]
    return np.array(tokens), np.array([[min(c.num_tokens, length) - 1] for c in completions])


def seen_tokens(completions: Sequence[Completion], vocab_size: int) -> npt.NDArray[np.bool_]:
    """Return which tokens have occurred in each row, `(R, V)`."""
    seen = np.zeros((len(completions), vocab_size), np.bool_)
    for row, completion in zip(seen, completions, strict=True):
        row[completion.prompt + completion.tokens] = True
    return seen
