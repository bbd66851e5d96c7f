"""What a planted fault is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """In `file`, the one place that reads `old` reads `new`."""

    name: str
    file: str
    old: str
    new: str
