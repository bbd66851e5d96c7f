"""Faults of files and formats."""

from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = ()
