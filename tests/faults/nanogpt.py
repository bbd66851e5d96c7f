"""Faults of what comes from nanoGPT and goes back."""

from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = ()
