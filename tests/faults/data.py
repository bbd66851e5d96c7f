"""Faults of tokens and their sources."""

from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = ()
