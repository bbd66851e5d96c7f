"""Faults of the benchmarks' figures."""

from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = ()
