"""Close draws, decided in float64: so both twins take the same tokens, whatever computes them.

A twin's logits are off by its rounding. A draw whose margin is within that is decided anew, by the
twin's own rule, from the logits of one float64 GPT-2, written in numpy for both. In a float64 draw
rounding decides once in some 10**10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gpt_common.completion import (
    ROUNDING,
    Completion,
    SampledTokens,
    next_uniforms,
    pad_inputs,
    seen_tokens,
)
from gpt_common.config import LAYER_NORM_EPSILON, Dtype, GPTConfig, SamplingOptions, require_exact
from gpt_common.errors import InputError
from gpt_common.weights import Weights

Array = npt.NDArray[np.float64]

# The twin's rule: of logits (1, V), a uniform number (1,), and which tokens have occurred (1, V).
Sample = Callable[[Array, Array, npt.NDArray[np.bool_] | None], SampledTokens]

HEAD_ROWS = 4096  # of the head that are in float64 at a time

LOGPROB_ROUNDING = 1e-5  # of a twin's log-probability, in nats

KEPT_BYTES = 2**30  # of keys and values; of GPT-2 124M 7,000 tokens

# Logits are rounded to 2**-43 of the largest, thirty times what their own rounding comes to, so
# that equal tokens tie, in whatever order their products were added.
GRID_BITS = 43


@dataclass
class Reading:
    """What has been read of a row: its tokens, and each layer's keys and values, `(T, 2C)`."""

    tokens: list[int] = field(default_factory=list)
    layers: list[Array] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(layer.nbytes for layer in self.layers)


class Float64GPT:
    """GPT-2 in float64: what the twins would compute if they did not round.

    `dtype` is that of the twin. `weights` is called when they are first needed; they come in the
    type in which the twin holds them, and become float64 one by one, as they are used.
    Raises `InputError` for a `dtype` that is too coarse.
    """

    def __init__(
        self, config: GPTConfig, weights: Callable[[], Weights], dtype: Dtype = "float32"
    ) -> None:
        require_exact(dtype)
        self.config, self.dtype = config, dtype
        self._load = weights
        self._held = np.float64 if dtype == "float64" else np.float32

    @cached_property
    def _weights(self) -> Weights:
        return self._load()

    def logits(self, readings: Sequence[Reading], texts: Sequence[list[int]]) -> Array:
        """Return the logits `(R, V)` that follow each text, a row's last `block_size` tokens.

        Of a text that goes on from its reading only the rest is read; the reading then has it too.
        """
        starts = [turn(*row, self.config) for row in zip(readings, texts, strict=True)]
        x = np.concatenate([self._embed(*row) for row in zip(texts, starts, strict=True)])
        ends = np.cumsum([len(text) for text in texts]) - np.cumsum(starts)
        for n in range(self.config.n_layer):
            name = f"transformer.h.{n}."
            qkv = self._linear(self._norm(x, name + "ln_1"), name + "attn.c_attn")
            parts = zip(readings, np.split(qkv, ends[:-1]), strict=True)
            y = np.concatenate([self._attend(reading, n, part) for reading, part in parts])
            x = x + self._linear(y, name + "attn.c_proj")
            hidden = self._linear(self._norm(x, name + "ln_2"), name + "mlp.c_fc")
            x = x + self._linear(GELU[self.config.activation](hidden), name + "mlp.c_proj")
        return on_grid(self._head(self._norm(x[ends - 1], "transformer.ln_f")))

    def _embed(self, text: list[int], start: int) -> Array:
        wte, wpe = (self._weights[f"transformer.{name}.weight"] for name in ("wte", "wpe"))
        return self._promoted(wte[text[start:]]) + self._promoted(wpe[start : len(text)])

    def _attend(self, reading: Reading, n: int, qkv: Array) -> Array:
        """Attend from a row's new tokens to all that has been read of it, and keep these."""
        C = self.config.n_embd
        reading.layers[n] = kept = np.concatenate([reading.layers[n], qkv[:, C:]])
        return attention(qkv[:, :C], kept[:, :C], kept[:, C:], self.config.n_head)

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        normed = centred / np.sqrt(variance + LAYER_NORM_EPSILON)
        return self._shifted(normed * self._promoted(self._weights[f"{name}.weight"]), name)

    def _linear(self, x: Array, name: str) -> Array:
        return self._shifted(x @ self._promoted(self._weights[f"{name}.weight"]), name)

    def _shifted(self, x: Array, name: str) -> Array:
        bias = self._weights.get(f"{name}.bias")
        return x if bias is None else x + self._promoted(bias)

    def _head(self, x: Array) -> Array:
        wte = self._weights["transformer.wte.weight"]
        parts = (wte[start : start + HEAD_ROWS] for start in range(0, len(wte), HEAD_ROWS))
        return np.concatenate([x @ self._promoted(part).T for part in parts], axis=-1)

    def _promoted(self, weight: npt.NDArray[np.floating]) -> Array:
        return weight.astype(self._held, copy=False).astype(np.float64, copy=False)


def turn(reading: Reading, text: list[int], config: GPTConfig) -> int:
    """Return how much of a text its reading has; make it one of nothing where they part."""
    start = len(reading.tokens)
    if start >= len(text) or reading.tokens != text[:start]:
        start = 0
    if not start:
        reading.layers = [np.empty((0, 2 * config.n_embd)) for _ in range(config.n_layer)]
    reading.tokens = text
    return start


def attention(q: Array, keys: Array, values: Array, n_head: int) -> Array:
    """Attend from the last T of S tokens, `(T, C)`, to what each sees of all, `(S, C)`."""
    T, S = len(q), len(keys)
    q, k, v = (a.reshape(len(a), n_head, -1).transpose(1, 0, 2) for a in (q, keys, values))
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])  # (nh, T, S)
    scores[:, ~np.tri(T, S, S - T, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ v).transpose(1, 0, 2).reshape(T, -1)


def gelu_tanh(x: Array) -> Array:
    """Return GELU in its tanh form."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_erf(x: Array) -> Array:
    """Return GELU in its erf form, which numpy does not have."""
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).flat), np.float64, x.size)
    return 0.5 * x * (1 + erf.reshape(x.shape))


GELU = {"gelu_new": gelu_tanh, "gelu": gelu_erf}


def on_grid(logits: Array) -> Array:
    """Return logits `(R, V)` rounded to `GRID_BITS` bits of each row's largest."""
    exponent = np.frexp(np.abs(logits).max(-1, keepdims=True))[1]
    step = np.ldexp(1.0, exponent - GRID_BITS)
    return np.round(logits / step) * step


class Judge:
    """Gives continuations the tokens of a chunk, after it has decided the close ones anew."""

    def __init__(self, model: Float64GPT, sampling: SamplingOptions, sample: Sample) -> None:
        self._model, self._sampling, self._sample = model, sampling, sample
        self._limit = ROUNDING[model.dtype]
        self._readings: dict[int, Reading] = {}

    def add_chunk(self, completions: Sequence[Completion], chunk: SampledTokens) -> bool:
        """Give each continuation its tokens of a chunk `(n, R)`; return whether one was changed.

        What the chunk has after a changed token was drawn from another text, and is void.
        """
        rows = {n: iter(row) for n, row in enumerate(by_row(chunk))}
        changed = False
        self._forget(completions)
        while close := self._add_sure(completions, rows):
            for n, decided in zip(close, self._decide(close, completions), strict=True):
                completions[n].add(decided, exact=True)
                if decided.token != close[n].token:
                    changed, rows[n] = True, iter(())
        return changed

    def _forget(self, completions: Sequence[Completion]) -> None:
        """Drop what was read of rows that have ended, and the oldest of what is too much."""
        kept = self._readings.items()
        self._readings = {n: reading for n, reading in kept if not completions[n].finish}
        while sum(reading.nbytes for reading in self._readings.values()) > KEPT_BYTES:
            del self._readings[next(iter(self._readings))]

    def _add_sure(
        self, completions: Sequence[Completion], rows: Mapping[int, Iterator[SampledTokens]]
    ) -> dict[int, SampledTokens]:
        """Give each row its tokens down to a close draw, and return these by row."""
        close = {}
        for n, row in rows.items():
            for drawn in row:
                if completions[n].finish:
                    break
                if drawn.margin <= self._limit:
                    close[n] = drawn
                    break
                completions[n].add(drawn)
        return close

    def _decide(
        self, close: Mapping[int, SampledTokens], completions: Sequence[Completion]
    ) -> Iterator[SampledTokens]:
        """Yield the next draw of each of these rows, in float64."""
        config, growing = self._model.config, [completions[n] for n in close]
        texts = [pad_inputs([c], config.block_size)[0][0].tolist() for c in growing]
        readings = [self._readings.setdefault(n, Reading()) for n in close]
        logits = self._model.logits(readings, texts)
        for drawn, row in zip(close.values(), logits, strict=True):
            check_rounding(drawn, row, self._limit)
        draws = next_uniforms(self._sampling.seed, growing, 1)
        for n, completion in enumerate(growing):
            seen = None
            if self._sampling.repetition_penalty != 1:
                seen = seen_tokens([completion], config.vocab_size)
            drawn = self._sample(logits[n : n + 1], draws[n], seen)
            yield SampledTokens(*(column[0] for column in drawn))


def check_rounding(drawn: SampledTokens, logits: Array, limit: float) -> None:
    """Raise `InputError` where a twin's log-probability shows an error of its logits above `limit`.

    Errors up to that share of the largest logit change it by twice as much, and its own rounding.
    """
    largest = np.abs(logits).max()
    error = abs(logits[drawn.token] - np.logaddexp.reduce(logits) - drawn.logprob)
    if error > 2 * limit * largest + LOGPROB_ROUNDING:
        raise InputError(
            f"exact: expected logits within {limit:.0e} of the largest, got {error / largest:.0e}: "
            f"this model rounds too much; try --dtype float64"
        )


def by_row(chunk: SampledTokens) -> Iterator[list[SampledTokens]]:
    """Yield the draws of each row of a chunk `(n, R)`."""
    for columns in zip(*(numbers.T for numbers in chunk), strict=True):
        yield [SampledTokens(*drawn) for drawn in zip(*columns, strict=True)]
