"""Faults of exact generation."""

from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = ()
