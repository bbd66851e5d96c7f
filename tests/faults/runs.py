"""Faults of runs: their folders, options, signals and logs."""

from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = ()
