"""Faults of exact generation: borderline tokens sampled in float64."""

from tests.faults.fault import Fault

FAULTS = (
    Fault(
        "exact: a changed token keeps the tokens sampled after it",
        "gpt_common/exact.py::ExactSampler.add_chunk",
        "changed, rows[n] = True, iter(())",
        "changed = True",
    ),
    Fault(
        "exact: a changed token is not reported",
        "gpt_common/exact.py::ExactSampler.add_chunk",
        "changed, rows[n] = True, iter(())",
        "rows[n] = iter(())",
    ),
    Fault(
        "exact: every token is sampled again",
        "gpt_common/exact.py::ExactSampler._add_until_borderline",
        "sampled.margin <= self._limit",
        "True",
    ),
    Fault(
        "exact: a finished row is sampled again",
        "gpt_common/exact.py::ExactSampler._add_until_borderline",
        "completions[n].finish",
        "False",
    ),
    Fault(
        "exact: the penalty is forgotten",
        "gpt_common/exact.py::ExactSampler._resample",
        "self._sampling.repetition_penalty != 1",
        "False",
    ),
    Fault(
        "exact: equal tokens tie as their products were added",
        "gpt_common/exact.py::Float64GPT.logits",
        'round_logits(self._head(self._norm(x[ends - 1], "transformer.ln_f")))',
        'self._head(self._norm(x[ends - 1], "transformer.ln_f"))',
    ),
    Fault(
        "exact: the whole context is processed for each token",
        "gpt_common/exact.py::reuse_prefix",
        "start >= len(tokens) or cache.tokens != tokens[:start]",
        "True",
    ),
    Fault(
        "exact: the cache of another context is reused",
        "gpt_common/exact.py::reuse_prefix",
        "start >= len(tokens) or cache.tokens != tokens[:start]",
        "start >= len(tokens)",
    ),
    Fault(
        "exact: the cache is unlimited",
        "gpt_common/exact.py::ExactSampler._evict_caches",
        "MAX_CACHE_BYTES",
        "10**20",
    ),
    Fault(
        "exact: a token sees the next",
        "gpt_common/exact.py::attention",
        "S - T",
        "S - T + 1",
    ),
    Fault(
        "exact: the GELU is always the tanh form",
        "gpt_common/exact.py::GELU",
        '{"gelu_new": gelu_tanh, "gelu": gelu_erf}',
        '{"gelu_new": gelu_tanh, "gelu": gelu_tanh}',
    ),
    Fault(
        "exact: the products are in float32",
        "gpt_common/exact.py::Float64GPT._upcast",
        "weight.astype(self._weight_dtype, copy=False).astype(np.float64, copy=False)",
        "weight.astype(self._weight_dtype, copy=False)",
    ),
    Fault(
        "exact: a model that rounds too much is accepted",
        "gpt_common/exact.py::check_rounding",
        "error > 2 * limit * largest + LOGPROB_ROUNDING",
        "False",
    ),
    Fault(
        "exact: float64 has the limit of float32",
        "gpt_common/exact.py::ExactSampler.__init__",
        "ROUNDING[model.dtype]",
        'ROUNDING["float32"]',
    ),
)
