"""Faults of what the commands hand on."""

from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = ()
