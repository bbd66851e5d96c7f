"""The implementations that are compared, and how the worker process of each is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gpt_common.errors import InputError

Framework = Literal["torch", "flax", "huggingface", "huggingface-best", "all"]
ROOT = Path(__file__).parent.parent
BASELINE = "huggingface"

# glibc maps and unmaps large blocks at every step, and the page faults cost a fifth of it. These
# settings keep the blocks; they take effect only if set before the process starts.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647"
    ":glibc.malloc.top_pad=268435456"
}
# JAX preallocates three quarters of a GPU's memory, which the other processes may need.
SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Implementation:
    """An implementation: its worker module, its description, its colour in plots."""

    name: str
    worker: str
    description: str
    color: str
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable

    @property
    def command(self) -> list[str]:
        """The command that starts its worker process."""
        if self.worker.endswith(".py"):  # imports nothing of this project
            return [self.python, str(ROOT / "benchmarks" / "workers" / self.worker)]
        return [self.python, "-m", "benchmarks.workers.session", self.worker]

    @property
    def environ(self) -> dict[str, str]:
        """The environment of its process; the user's own variables take precedence."""
        return SHARED_GPU | self.environment | os.environ


TUNED = {"fused": True, "static_cache": True}
IMPLEMENTATIONS = (
    Implementation("torch", "torch_twin", "gpt_torch", "#ee4c2c"),
    Implementation("flax", "flax_twin", "gpt_flax", "#3467c1"),
    Implementation(
        BASELINE, "huggingface", "transformers' GPT-2 with its default settings", "#2a9d62"
    ),
    Implementation(
        "huggingface-best",
        "huggingface",
        "the same, tuned: fused AdamW, a static cache in generation, malloc that keeps freed "
        "memory",
        "#8fcfae",
        TUNED,
        ALLOCATOR,
    ),
    Implementation(
        "huggingface-flax",
        "huggingface_flax.py",
        "transformers' last Flax GPT-2, in a separate environment",
        "#8a8a8a",
    ),
)
BY_NAME = {implementation.name: implementation for implementation in IMPLEMENTATIONS}


def select_implementations(
    names: Sequence[str], flax_peer_python: str | None = None
) -> list[Implementation]:
    """Return the implementations with these names; `all` selects every one.

    `flax_peer_python` adds Hugging Face's Flax model, which that interpreter runs. Raises
    `InputError` if it is not executable.
    """
    chosen = [i for i in IMPLEMENTATIONS[:-1] if i.name in names or "all" in names]
    if flax_peer_python is None:
        return chosen
    if not os.access(flax_peer_python, os.X_OK):
        raise InputError(f"flax_peer_python: expected an interpreter, got {flax_peer_python}")
    return [*chosen, replace(IMPLEMENTATIONS[-1], python=flax_peer_python)]
