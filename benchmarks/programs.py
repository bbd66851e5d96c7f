"""The programs that are compared, and how the process of each is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpt_common.errors import InputError

Framework = Literal["torch", "flax", "huggingface", "huggingface-best", "all"]
ROOT = Path(__file__).parent.parent
PEER = "huggingface"

# glibc maps and unmaps large blocks at every step, and the page faults cost a fifth of it. These
# keep the blocks; they count only where they are set before the process starts.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647"
    ":glibc.malloc.top_pad=268435456"
}
# JAX would take three quarters of a GPU at its start, which others may need.
SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Program:
    """A program: the module that runs it, what it is in words, its colour in figures."""

    name: str
    subject: str
    description: str
    color: str
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable

    @property
    def command(self) -> list[str]:
        """The command that starts its worker."""
        if self.subject.endswith(".py"):  # imports nothing of this project
            return [self.python, str(ROOT / "benchmarks" / "subjects" / self.subject)]
        return [self.python, "-m", "benchmarks.worker", self.subject]

    @property
    def environ(self) -> dict[str, str]:
        """The environment of its process: what the user has set wins."""
        return SHARED_GPU | self.environment | os.environ


BEST = {"fused": True, "static_cache": True}
PROGRAMS = (
    Program("torch", "torch_twin", "gpt_torch", "#ee4c2c"),
    Program("flax", "flax_twin", "gpt_flax", "#3467c1"),
    Program(PEER, "huggingface", "transformers' GPT-2 as it comes", "#2a9d62"),
    Program(
        "huggingface-best",
        "huggingface",
        "the same with fused AdamW, a static cache where it generates, and malloc that keeps "
        "its memory",
        "#8fcfae",
        BEST,
        ALLOCATOR,
    ),
    Program(
        "huggingface-flax",
        "huggingface_flax.py",
        "transformers' last Flax GPT-2, in an environment of its own",
        "#8a8a8a",
    ),
)
BY_NAME = {program.name: program for program in PROGRAMS}


def select_programs(names: Sequence[str], flax_peer_python: str | None = None) -> list[Program]:
    """Return the programs of those names; `all` stands for every one.

    Hugging Face's Flax model comes with the interpreter that runs it. Raises `InputError` where
    there is no such interpreter.
    """
    chosen = [p for p in PROGRAMS[:-1] if p.name in names or "all" in names]
    if flax_peer_python is None:
        return chosen
    if not os.access(flax_peer_python, os.X_OK):
        raise InputError(f"flax_peer_python: expected an interpreter, got {flax_peer_python}")
    peer = PROGRAMS[-1]
    return [
        *chosen,
        Program(peer.name, peer.subject, peer.description, peer.color, python=flax_peer_python),
    ]
