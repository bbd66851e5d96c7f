"""The kernels of a program that XLA has compiled for a GPU: their bytes and FLOPs, from its text.

`compiled.cost_analysis()` is empty for a program that is compiled for a GPU that is not there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from benchmarks.workers.kernels import Kernel

ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")  # element type and shape, as in f32[4,8]
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\(([^)]*)\)(.*)$")
NO_KERNEL = ("parameter", "get-tuple-element", "bitcast", "tuple", "constant", "after-all")
READS_A_PART = ("gather", "dynamic-slice", "slice", "broadcast")
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # and which operand has the new values


@dataclass(frozen=True)
class Instruction:
    """An instruction: the type of its result, its opcode, its operands' names, its attributes."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def shapes(self) -> list[tuple[str, list[int]]]:
        """Element type and shape of each array of the result."""
        return [
            (element, [int(size) for size in shape.split(",") if size])
            for element, shape in ARRAY.findall(self.type)
        ]

    @property
    def elements(self) -> int:
        """The number of elements of the result."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    @property
    def bytes(self) -> int:
        """The bytes of the result, without a library's workspace, which is of 8-bit integers."""
        arrays = [array for array in self.shapes if array[0] not in ("s8", "u8")]
        return sum(math.prod(shape) * element_bits(element) // 8 for element, shape in arrays)

    @property
    def trip_count(self) -> int:
        """How often a loop runs. Raises `ValueError` if XLA does not know it."""
        found = self.find(r'"known_trip_count":\{"n":"(\d+)"')
        if not found:
            raise ValueError(f"{self.name}: expected a loop with a known trip count")
        return int(found)

    def find(self, pattern: str) -> str:
        """Return the first group of a pattern in the attributes, or an empty string."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]


def element_bits(element: str) -> int:
    """Return the size of an element type, such as f32, s64 or bf16, in bits."""
    return 8 if element == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", element))


@dataclass(frozen=True)
class Module:
    """A program: its text, and its computations by name, operands before their users."""

    text: str

    @cached_property
    def computations(self) -> dict[str, Computation]:
        """The computations; the one that runs is `ENTRY`."""
        computations: dict[str, Computation] = {}
        for line in self.text.splitlines():
            if header := HEADER.match(line):
                name = "ENTRY" if header[1] else header[2]
                current = computations[name] = {}
            elif found := INSTRUCTION.match(line):
                operands = re.findall(r"%([\w.\-]+)", found[4])
                parts = found[1], found[2], found[3], tuple(operands), found[5]
                current[found[1]] = Instruction(*parts)
        return computations

    @cached_property
    def instructions(self) -> list[Instruction]:
        """All instructions, those of fusions and loops too."""
        return [each for found in self.computations.values() for each in found.values()]

    def kernels(self, computation: str = "ENTRY", times: int = 1) -> Iterator[Kernel]:
        """Yield the kernels that run, those of a loop with its trip count."""
        scope = self.computations[computation]
        for each in scope.values():
            if each.opcode == "while":
                yield from self.kernels(each.find(r"body=%([\w.\-]+)"), times * each.trip_count)
            elif each.opcode not in NO_KERNEL:
                layer = each.find(r'op_name="([^"]*)"')
                yield Kernel(layer, self.bytes(each, scope), self.flops(each, scope), times)

    def bytes(self, each: Instruction, scope: Computation) -> float:
        """Return the bytes of memory that an instruction reads and writes."""
        if each.opcode == "fusion":
            return fusion_bytes(self.computations[each.find(r"calls=%([\w.\-]+)")])
        return each.bytes + sum(scope[name].bytes for name in each.operands)

    def flops(self, each: Instruction, scope: Computation) -> float:
        """Return the FLOPs of the matrix products in an instruction, which tensor cores compute."""
        if each.opcode == "fusion":
            fused = self.computations[each.find(r"calls=%([\w.\-]+)")]
            return sum(self.flops(inner, fused) for inner in fused.values())
        if "__cudnn$fmha" in each.attributes:
            return attention_flops(each, scope)
        if each.opcode == "dot" or "__cublas" in each.attributes:
            return product_flops(each, scope)
        return 0.0


def product_flops(each: Instruction, scope: Computation) -> float:
    """Return the FLOPs of a matrix product: one multiplication and one addition each."""
    axes = each.find(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)')
    left = scope[each.operands[0]].shapes[0][1]
    contracted = math.prod(left[int(axis)] for axis in re.findall(r"\d+", axes))
    return 2.0 * math.prod(each.shapes[0][1]) * contracted


def attention_flops(each: Instruction, scope: Computation) -> float:
    """Return the FLOPs of cuDNN's attention: two products forward, five backward.

    With a causal mask half of them: each query attends to half the keys on average.
    """
    scores = json.loads(each.find(r'"intermediate_tensor_shape": \{[^}]*"dimensions": (\[[^]]*\])'))
    B, nh, T, S = map(int, scores)
    products = 5 if "Backward" in each.attributes else 2
    head_size = scope[each.operands[0]].elements / (B * nh * T)
    masked = 0.5 if "CAUSAL" in each.attributes else 1.0
    return masked * products * 2 * B * nh * T * S * head_size


def fusion_bytes(fused: Computation) -> float:
    """Return the bytes that a fusion reads and writes.

    Of an operand that it only slices or gathers it reads that part. An operand that it updates in
    place is neither read nor written outside of the update.
    """
    root = list(fused.values())[-1]
    results = root.operands if root.opcode == "tuple" else (root.name,)
    needed: dict[str, float] = dict.fromkeys(fused, 0.0)
    needed |= {name: fused[name].elements for name in results}
    read = 0.0
    for each in reversed(fused.values()):  # users before their operands
        count = min(needed[each.name], each.elements)
        if each.opcode == "parameter":
            read += each.bytes * count / max(each.elements, 1)
        for i, name in enumerate(each.operands):
            needed[name] += needed_elements(each, count, i, fused[name])
    return read + sum(written_bytes(fused[name], fused) for name in results)


def needed_elements(user: Instruction, count: float, index: int, operand: Instruction) -> float:
    """Return how many elements of its operand `index` a user reads for `count` of its own."""
    if index == 0 and user.opcode in READS_A_PART:
        return count
    if index == 0 and user.opcode in UPDATES:
        return 0
    return operand.elements * count / max(user.elements, 1)


def written_bytes(result: Instruction, fused: Computation) -> float:
    """Return the bytes that are written for a result of a fusion."""
    while result.opcode == "bitcast":
        result = fused[result.operands[0]]
    if result.opcode in UPDATES:
        return fused[result.operands[UPDATES[result.opcode]]].bytes
    return result.bytes
