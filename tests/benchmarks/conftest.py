"""A fake clock for every module that reads the time."""

import os

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


SMI = """
case "$1" in
*clocks.sm,clocks.max.sm,power.limit,temperature.gpu) echo '345 MHz, 1980 MHz, 700.00 W, 31' ;;
*name,memory.total,driver_version) echo 'NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06' ;;
*driver_version) echo '580.65.06' ;;
esac
"""


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """Put a fake `nvidia-smi` on the path; call it to give it another script."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()

    def write(script):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)

    write(SMI)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    return write
