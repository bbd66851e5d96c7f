"""A fake clock for every module that reads the time."""

import pytest

from benchmarks import data, timing, train_step
from benchmarks.workers import conversion, jax_tools, session, torch_tools
from tests.benchmarks.fakes import Clock


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (timing, train_step, data, session, conversion, torch_tools, jax_tools):
        monkeypatch.setattr(module, "time", clock)
    return clock
