"""Data sheets of GPUs, in the form that XLA reads, and what they promise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.spec import Dtype
from gpt_common.flops import datasheet_peak

CARDS = Path(__file__).parent
CardName = Literal["h100", "a100"]


@dataclass(frozen=True)
class Card:
    """A GPU: its full name, the FLOP/s of its matrix products, and the bytes/s of its memory."""

    name: str
    flops_per_second: float
    bytes_per_second: float


def read_card(name: CardName, dtype: Dtype) -> Card:
    """Return what a card promises for matrix products in `dtype`."""
    text = (CARDS / f"{name}.txtpb").read_text()
    (full_name,) = re.findall(r'^  name: "(.*)"', text, re.MULTILINE)
    (bandwidth,) = re.findall(r"memory_bandwidth: (\d+)", text)
    peak = datasheet_peak(full_name, dtype)
    assert peak, full_name
    return Card(full_name, peak, float(bandwidth))
