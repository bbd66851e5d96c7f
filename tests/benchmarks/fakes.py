"""Fakes of workers, clocks and devices, which return known numbers."""

from contextlib import contextmanager

import pytest

from benchmarks import candidate, generate
from benchmarks.generate import GenerateBenchmarkConfig
from benchmarks.implementations import BY_NAME
from benchmarks.spec import Spec
from gpt_common.config import PRESETS

CONSOLE = candidate.stderr_console()
H100 = "NVIDIA H100 80GB HBM3"
GPT2_FLOPS = 855_166_464  # a token at T=1024: 6 (124,439,808 - 1024 * 768) + 12 * 12 * 768 * 1024
SHORT = 798_543_360  # at T=512
SPEC = Spec(PRESETS["gpt2"], "tokens.npy", "cpu", "float32", batch_size=2, seq_len=512)
RATES = {"torch": 300.0, "flax": 50.0, "huggingface": 100.0, "huggingface-best": 200.0}
STEP = {
    "name": "flax",
    "milliseconds": {"median": 500.0, "min": 250.0, "max": 4000.0},
    "tokens_per_second": 2048.0,
    "flops_per_second": 1.635e12,
    "peak_memory": 5.678e9,
}

OPERATION = {
    "name": "torch",
    "operation": "attention",
    "dtype": "bfloat16",
    "seq_len": 256,
    "plain": {"forward": {"median": 4.0}, "forward_backward": {"median": 12.0}},
    "fast": {"forward": {"median": 0.5}, "forward_backward": {"median": 1234.5}},
    "speed_up": {"forward": 8.0, "forward_backward": 2.0},
    "default": True,
}


def approx(expected):
    return pytest.approx(expected, rel=1e-12)


class Clock:
    """A fake of the module `time`, which advances only by `spend`."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


class FakeCandidate:
    """Returns given answers, in turn or always the same, and records the requests."""

    error = ""

    def __init__(self, name, asked, answers, clock=None):
        self.implementation, self._asked, self._answers, self._clock = (
            BY_NAME[name],
            asked,
            answers,
            clock,
        )

    def ask(self, call, **arguments):
        self._asked.append((self.implementation.name, call, arguments))
        if self._clock:
            self._clock.spend(4.0)
        answer = self._answers[call]
        return next(answer) if hasattr(answer, "__next__") else answer

    def failure(self):
        return {"name": self.implementation.name, "error": self.error}


def cells(table):
    """Return a table's rows as lists of "head: cell"."""
    columns = [[f"{c.header}: {cell}" for cell in c.cells] for c in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def generated_case():
    first = [{"seconds": 3.0, "length": 9}, {"seconds": 4.0, "length": 40}]
    return generate.summarise((4, 8), 33, first, [0.5, 9.0, 0.25], [1.5, 8.0, 2.1])


def generated_results():
    results = []
    for name, rate in RATES.items():
        cases = [generated_case() | {"tokens_per_second": r} for r in (rate, 20.0)]
        speeds = {"sum": 1e10}, {"head, linear": 1e12}
        cases = [case | generate.limit(case, GenerateBenchmarkConfig(), *speeds) for case in cases]
        results.append({"name": name, "cases": cases, "peak_memory": 1.234e9})
    generate.add_speedups(results)
    return results


@contextmanager
def no_corpus():
    yield "tokens.npy"
