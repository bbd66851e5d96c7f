"""Faults of exact generation: draws decided in float64."""

from tests.faults.fault import Fault

FAULTS = (
    Fault(
        "exact: a changed token does not void what was drawn after it",
        "gpt_common/exact.py::Judge.add_chunk",
        "changed, rows[n] = True, iter(())",
        "changed = True",
    ),
    Fault(
        "exact: a changed token is not told",
        "gpt_common/exact.py::Judge.add_chunk",
        "changed, rows[n] = True, iter(())",
        "rows[n] = iter(())",
    ),
    Fault(
        "exact: every draw is decided anew",
        "gpt_common/exact.py::Judge._add_sure",
        "drawn.margin <= self._limit",
        "True",
    ),
    Fault(
        "exact: a row that has ended is decided too",
        "gpt_common/exact.py::Judge._add_sure",
        "completions[n].finish",
        "False",
    ),
    Fault(
        "exact: the penalty is forgotten",
        "gpt_common/exact.py::Judge._decide",
        "self._sampling.repetition_penalty != 1",
        "False",
    ),
    Fault(
        "exact: equal tokens tie as their products were added",
        "gpt_common/exact.py::Float64GPT.logits",
        'on_grid(self._head(self._norm(x[ends - 1], "transformer.ln_f")))',
        'self._head(self._norm(x[ends - 1], "transformer.ln_f"))',
    ),
    Fault(
        "exact: the whole text is read for each draw",
        "gpt_common/exact.py::turn",
        "start >= len(text) or reading.tokens != text[:start]",
        "True",
    ),
    Fault(
        "exact: what was read of another text is kept",
        "gpt_common/exact.py::turn",
        "start >= len(text) or reading.tokens != text[:start]",
        "start >= len(text)",
    ),
    Fault(
        "exact: all that was read is kept",
        "gpt_common/exact.py::Judge._forget",
        "KEPT_BYTES",
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
        "gpt_common/exact.py::Float64GPT._promoted",
        "weight.astype(self._held, copy=False).astype(np.float64, copy=False)",
        "weight.astype(self._held, copy=False)",
    ),
    Fault(
        "exact: a model that rounds too much is not told",
        "gpt_common/exact.py::check_rounding",
        "error > 2 * limit * largest + LOGPROB_ROUNDING",
        "False",
    ),
    Fault(
        "exact: float64 is decided anew as float32 is",
        "gpt_common/exact.py::Judge.__init__",
        "ROUNDING[model.dtype]",
        'ROUNDING["float32"]',
    ),
)
