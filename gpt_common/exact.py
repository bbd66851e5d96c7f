"""Exact sampling: borderline tokens are sampled again in float64, so that both twins agree.

A twin's logits have a rounding error. If the margin of a sampled token is within that error, the
token is sampled again from the logits of `Float64GPT`, which is written in numpy and shared by both
twins. In float64, rounding decides about one token in 10**10.
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

# A twin's sampling: of logits (1, V), a uniform sample (1,) and a mask of seen tokens (1, V).
Sample = Callable[[Array, Array, npt.NDArray[np.bool_] | None], SampledTokens]

HEAD_CHUNK = 4096  # rows of the head that are converted to float64 at a time
LOGPROB_ROUNDING = 1e-5  # of a twin's log-probability, in nats
MAX_CACHE_BYTES = 2**30  # 7,000 tokens of GPT-2 124M

# Logits are rounded to 2**-43 of the largest, thirty times their own rounding error, so that equal
# tokens tie, in whatever order their products were added.
LOGIT_BITS = 43


@dataclass
class KVCache:
    """The processed tokens of one row, and each layer's keys and values `(T, 2C)`."""

    tokens: list[int] = field(default_factory=list)
    layers: list[Array] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(layer.nbytes for layer in self.layers)


class Float64GPT:
    """GPT-2 in float64: what the twins would compute without rounding.

    `dtype` is the twin's. `weights` is called at the first use; each weight is converted to the
    twin's dtype, then to float64, when it is used. Raises `InputError` for 16 bits and tf32.
    """

    def __init__(
        self, config: GPTConfig, weights: Callable[[], Weights], dtype: Dtype = "float32"
    ) -> None:
        require_exact(dtype)
        self.config, self.dtype = config, dtype
        self._load = weights
        self._weight_dtype = np.float64 if dtype == "float64" else np.float32

    @cached_property
    def _weights(self) -> Weights:
        return self._load()

    def logits(self, caches: Sequence[KVCache], inputs: Sequence[list[int]]) -> Array:
        """Return the next-token logits `(R, V)` of each row's last `block_size` tokens.

        Only tokens that are not in a row's cache are processed; they are then added to it.
        """
        starts = [reuse_prefix(*row, self.config) for row in zip(caches, inputs, strict=True)]
        x = np.concatenate([self._embed(*row) for row in zip(inputs, starts, strict=True)])
        ends = np.cumsum([len(tokens) for tokens in inputs]) - np.cumsum(starts)
        for n in range(self.config.n_layer):
            name = f"transformer.h.{n}."
            qkv = self._linear(self._norm(x, name + "ln_1"), name + "attn.c_attn")
            rows = zip(caches, np.split(qkv, ends[:-1]), strict=True)
            y = np.concatenate([self._attend(cache, n, row) for cache, row in rows])
            x = x + self._linear(y, name + "attn.c_proj")
            hidden = self._linear(self._norm(x, name + "ln_2"), name + "mlp.c_fc")
            x = x + self._linear(GELU[self.config.activation](hidden), name + "mlp.c_proj")
        return round_logits(self._head(self._norm(x[ends - 1], "transformer.ln_f")))

    def _embed(self, tokens: list[int], start: int) -> Array:
        wte, wpe = (self._weights[f"transformer.{name}.weight"] for name in ("wte", "wpe"))
        return self._upcast(wte[tokens[start:]]) + self._upcast(wpe[start : len(tokens)])

    def _attend(self, cache: KVCache, n: int, qkv: Array) -> Array:
        """Add a row's new keys and values to its cache; attend from the new tokens to all."""
        C = self.config.n_embd
        cache.layers[n] = kv = np.concatenate([cache.layers[n], qkv[:, C:]])
        return attention(qkv[:, :C], kv[:, :C], kv[:, C:], self.config.n_head)

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        normed = centred / np.sqrt(variance + LAYER_NORM_EPSILON)
        return self._add_bias(normed * self._upcast(self._weights[f"{name}.weight"]), name)

    def _linear(self, x: Array, name: str) -> Array:
        return self._add_bias(x @ self._upcast(self._weights[f"{name}.weight"]), name)

    def _add_bias(self, x: Array, name: str) -> Array:
        bias = self._weights.get(f"{name}.bias")
        return x if bias is None else x + self._upcast(bias)

    def _head(self, x: Array) -> Array:
        wte = self._weights["transformer.wte.weight"]
        chunks = (wte[start : start + HEAD_CHUNK] for start in range(0, len(wte), HEAD_CHUNK))
        return np.concatenate([x @ self._upcast(chunk).T for chunk in chunks], axis=-1)

    def _upcast(self, weight: npt.NDArray[np.floating]) -> Array:
        return weight.astype(self._weight_dtype, copy=False).astype(np.float64, copy=False)


def reuse_prefix(cache: KVCache, tokens: list[int], config: GPTConfig) -> int:
    """Return how many of the tokens are cached; clear the cache unless it is a proper prefix."""
    start = len(cache.tokens)
    if start >= len(tokens) or cache.tokens != tokens[:start]:
        start = 0
    if not start:
        cache.layers = [np.empty((0, 2 * config.n_embd)) for _ in range(config.n_layer)]
    cache.tokens = tokens
    return start


def attention(q: Array, keys: Array, values: Array, n_head: int) -> Array:
    """Return causal attention `(T, C)` of the last T of S tokens; keys and values are `(S, C)`."""
    T, S = len(q), len(keys)
    q, k, v = (a.reshape(len(a), n_head, -1).transpose(1, 0, 2) for a in (q, keys, values))
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])  # (nh, T, S)
    scores[:, ~np.tri(T, S, S - T, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ v).transpose(1, 0, 2).reshape(T, -1)


def gelu_tanh(x: Array) -> Array:
    """Return the tanh approximation of GELU."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_erf(x: Array) -> Array:
    """Return GELU with erf, which numpy does not have."""
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).flat), np.float64, x.size)
    return 0.5 * x * (1 + erf.reshape(x.shape))


GELU = {"gelu_new": gelu_tanh, "gelu": gelu_erf}


def round_logits(logits: Array) -> Array:
    """Return logits `(R, V)` rounded to `LOGIT_BITS` bits of each row's largest."""
    exponent = np.frexp(np.abs(logits).max(-1, keepdims=True))[1]
    step = np.ldexp(1.0, exponent - LOGIT_BITS)
    return np.round(logits / step) * step


class ExactSampler:
    """Adds a chunk's tokens to completions; samples borderline tokens again in float64."""

    def __init__(self, model: Float64GPT, sampling: SamplingOptions, sample: Sample) -> None:
        self._model, self._sampling, self._sample = model, sampling, sample
        self._limit = ROUNDING[model.dtype]
        self._caches: dict[int, KVCache] = {}

    def add_chunk(self, completions: Sequence[Completion], chunk: SampledTokens) -> bool:
        """Add the tokens of a chunk `(n, R)` to each completion; return whether one was changed.

        The tokens after a changed one are dropped: they were sampled from another context.
        """
        rows = {n: iter(row) for n, row in enumerate(unstack_rows(chunk))}
        changed = False
        self._evict_caches(completions)
        while borderline := self._add_until_borderline(completions, rows):
            exact_tokens = self._resample(borderline, completions)
            for n, exact in zip(borderline, exact_tokens, strict=True):
                completions[n].add(exact, exact=True)
                if exact.token != borderline[n].token:
                    changed, rows[n] = True, iter(())
        return changed

    def _evict_caches(self, completions: Sequence[Completion]) -> None:
        """Remove the caches of finished rows, then the oldest ones above `MAX_CACHE_BYTES`."""
        caches = self._caches.items()
        self._caches = {n: cache for n, cache in caches if not completions[n].finish}
        while sum(cache.nbytes for cache in self._caches.values()) > MAX_CACHE_BYTES:
            del self._caches[next(iter(self._caches))]

    def _add_until_borderline(
        self, completions: Sequence[Completion], rows: Mapping[int, Iterator[SampledTokens]]
    ) -> dict[int, SampledTokens]:
        """Add each row's tokens up to its first borderline token; return those, by row."""
        borderline = {}
        for n, row in rows.items():
            for sampled in row:
                if completions[n].finish:
                    break
                if sampled.margin <= self._limit:
                    borderline[n] = sampled
                    break
                completions[n].add(sampled)
        return borderline

    def _resample(
        self, borderline: Mapping[int, SampledTokens], completions: Sequence[Completion]
    ) -> Iterator[SampledTokens]:
        """Yield the next token of each of these rows, sampled from float64 logits."""
        config, rows = self._model.config, [completions[n] for n in borderline]
        inputs = [pad_inputs([row], config.block_size)[0][0].tolist() for row in rows]
        caches = [self._caches.setdefault(n, KVCache()) for n in borderline]
        logits = self._model.logits(caches, inputs)
        for sampled, row_logits in zip(borderline.values(), logits, strict=True):
            check_rounding(sampled, row_logits, self._limit)
        uniforms = next_uniforms(self._sampling.seed, rows, 1)
        for n, row in enumerate(rows):
            seen = None
            if self._sampling.repetition_penalty != 1:
                seen = seen_tokens([row], config.vocab_size)
            exact = self._sample(logits[n : n + 1], uniforms[n], seen)
            yield SampledTokens(*(column[0] for column in exact))


def check_rounding(sampled: SampledTokens, logits: Array, limit: float) -> None:
    """Raise `InputError` if a twin's log-probability shows a relative logit error above `limit`.

    An error of `limit` times the largest logit changes the log-probability by at most twice that.
    """
    largest = np.abs(logits).max()
    error = abs(logits[sampled.token] - np.logaddexp.reduce(logits) - sampled.logprob)
    if error > 2 * limit * largest + LOGPROB_ROUNDING:
        raise InputError(
            f"exact: expected logits within {limit:.0e} of the largest, got {error / largest:.0e}: "
            f"this model rounds too much; try --dtype float64"
        )


def unstack_rows(chunk: SampledTokens) -> Iterator[list[SampledTokens]]:
    """Yield the tokens of each row of a chunk `(n, R)`."""
    for columns in zip(*(numbers.T for numbers in chunk), strict=True):
        yield [SampledTokens(*sampled) for sampled in zip(*columns, strict=True)]
