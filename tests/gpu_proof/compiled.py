"""Flax's functions compiled for an NVIDIA GPU that is not there, and what their programs hold."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

CARDS = Path(__file__).parent / "cards"

# An instruction of XLA's program: its name, the type of its result, its kind, its operands.
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\(([^)]*)\)(.*)$")


@dataclass(frozen=True)
class Product:
    """A matrix product: the element types of both operands, and the precision that is asked for."""

    left: str
    right: str
    precision: str


@dataclass(frozen=True)
class Program:
    """A function compiled for a card: XLA's text of it, and its memory in bytes."""

    text: str
    peak: int
    aliased: int

    @property
    def instructions(self) -> list[re.Match[str]]:
        """The instructions, those of fusions and loops too."""
        return [m for line in self.text.splitlines() if (m := INSTRUCTION.match(line))]

    @property
    def loops(self) -> list[str]:
        """The loops, each a line of the text."""
        return [m[0] for m in self.instructions if m[3] == "while"]

    @property
    def calls(self) -> Counter[str]:
        """How often each library function is called."""
        return Counter(re.findall(r'custom_call_target="([^"]+)"', self.text))

    @property
    def products(self) -> Counter[Product]:
        """The matrix products, by cuBLAS or by XLA's own kernels, without those in cuDNN."""
        types = {m[1]: element_type(m[2]) for m in self.instructions}
        found: Counter[Product] = Counter()
        for m in self.instructions:
            if m[3] == "dot" or "__cublas" in m[5]:
                left, right = (name.strip().lstrip("%") for name in m[4].split(",")[:2])
                precision = re.search(r'operand_precision"?[:=][\[{]"?(\w+)', m[5])
                asked = precision[1].lower() if precision else "default"
                found[Product(types[left], types[right], asked)] += 1
        return found

    def arrays(self, element: str) -> Counter[tuple[int, ...]]:
        """How often each shape of an element type is the result of an instruction of the program.

        Not of those inside fusions, whose results never reach memory.
        """
        entry = self.text[self.text.index("ENTRY") :]
        found = re.findall(rf"= \(?{element}\[([\d,]+)\]", entry)
        return Counter(tuple(map(int, shape.split(","))) for shape in found)


def element_type(result: str) -> str:
    """Return the element type of an instruction's result, of a tuple's first."""
    return result.lstrip("(").split("[")[0]


@cache
def card(name: str) -> NamedSharding:
    """Return where arrays of a card are; jax makes a topology of its data sheet."""
    topology = topologies.get_topology_desc(
        "", platform="cuda", topology="1x1x1", target_config=(CARDS / f"{name}.txtpb").read_text()
    )
    return NamedSharding(Mesh(np.array(topology.devices), ("d",)), PartitionSpec())


def on_card(name: str, tree: Any) -> Any:
    """Return shapes and types of arrays, as arrays of the card; Python's numbers as they are."""
    return jax.tree.map(lambda a: a if isinstance(a, int) else a.update(sharding=card(name)), tree)


def compile_for(name: str, jitted: Callable[..., Any], *args: Any, **static: Any) -> Program:
    """Compile a jitted function of arrays given by shape and type for a card."""
    traced = jitted.trace(*on_card(name, args), **static)  # type: ignore[attr-defined]
    compiled = traced.lower(lowering_platforms=("cuda",)).compile()
    memory = compiled.memory_analysis()
    return Program(compiled.as_text(), memory.peak_memory_in_bytes, memory.alias_size_in_bytes)
