"""A clock that stands still, in every module that looks at one."""

import pytest

from benchmarks import data, timing, train_step, worker
from benchmarks.subjects import conversion, jax_tools, torch_tools
from tests.benchmarks.fakes import Clock


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (timing, train_step, data, worker, conversion, torch_tools, jax_tools):
        monkeypatch.setattr(module, "time", clock)
    return clock
