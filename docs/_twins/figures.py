"""The measurements that the twin pages show, checked against the source that they are of."""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_common.errors import InputError
from tests.faults.fault import find_definition, parse_file

FRAMEWORKS = ("torch", "flax")
KINDS = ("output", "gradients")
DTYPES = ("float64", "float32", "bfloat16")


@dataclass(frozen=True)
class Found:
    """The largest relative difference of each twin from the reference, and the tests' limit."""

    torch: float
    flax: float
    limit: float


Differences = Mapping[str, Mapping[str, Found]]  # "output" or "gradients", then the dtype


@dataclass(frozen=True)
class Parity:
    """What `docs/figures/parity.json` holds."""

    measured_on: str
    model: str
    functions: Mapping[str, Differences]  # by file::name, in PyTorch's words


@dataclass(frozen=True)
class Run:
    """What was measured of one twin, with or without a fault.

    `layers` are the relative differences of the layers' outputs, in their order; `gradients` are
    those of the parameters, by name; `losses` are of a training run, in nats.
    """

    layers: list[float]
    gradients: dict[str, float]
    losses: list[float]


@dataclass(frozen=True)
class Planted:
    """A fault, and what it does."""

    id: str
    name: str
    framework: str
    file: str
    function: str
    before: str
    after: str
    why: str
    outcome: str
    caught_by: str
    run: Run

    def change(self, source: str) -> "Change":
        """Return the line that the fault changes. Raises `InputError` unless it is there once."""
        scope = find_definition(parse_file(source), self.function)
        lines = enumerate(source.splitlines(), 1)
        found = [n for n, line in lines if line.strip() == self.before and _is_in(n, scope)]
        if len(found) != 1:
            raise InputError(f"expected {self.before!r} once in {self.function}, got {len(found)}")
        return Change(found[0], self.before, self.after)


def _is_in(line: int, scope: ast.AST) -> bool:
    first, last = getattr(scope, "lineno", 1), getattr(scope, "end_lineno", line)
    return bool(first <= line <= last)


@dataclass(frozen=True)
class Change:
    """A line of a file, by its number from 1, and the lines that take its place, not indented."""

    line: int
    before: str
    after: str


@dataclass(frozen=True)
class Effects:
    """What `docs/figures/faults.json` holds."""

    measured_on: str
    model: str
    steps: int  # of a run; each of its losses is the mean of equally many of them
    layers: list[str]
    intact: Mapping[str, Run]  # by framework
    faults: list[Planted]


def checksum(data: Mapping[str, Any]) -> str:
    """Return the first digits of the SHA-256 of what a file has besides them."""
    rest = {name: value for name, value in data.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def read_measured(path: Path) -> dict[str, Any]:
    """Return what a file has. Raises `InputError` if it was changed after it was measured."""
    data: dict[str, Any] = json.loads(path.read_text())
    if data["sha256"] != checksum(data):
        raise InputError(f"{path.name}: expected what was measured, got another number or text")
    return data


def read_parity(path: Path) -> Parity:
    """Read the differences.

    Raises `InputError` if one is above its limit, or was not measured.
    """
    data = read_measured(path)
    functions = {name: _differences(name, kinds) for name, kinds in data["functions"].items()}
    return Parity(_environment(data["environment"]), data["model"], functions)


def _differences(name: str, kinds: dict[str, Any]) -> Differences:
    return {
        kind: {dtype: _found(f"{name}, {kind} in {dtype}", n) for dtype, n in kinds[kind].items()}
        for kind in KINDS
        if kind in kinds
    }


def _found(what: str, numbers: dict[str, Any]) -> Found:
    found = Found(*(float(numbers[name]) for name in ("torch", "flax", "limit")))
    if not (found.torch <= found.limit and found.flax <= found.limit):  # nor NaN
        raise InputError(f"{what}: expected at most {found.limit}, got {found.torch}, {found.flax}")
    return found


def read_effects(path: Path) -> Effects:
    """Read the faults and what they do. Raises `InputError` for what was not measured."""
    data = read_measured(path)
    intact = {framework: _run(data["intact"][framework]) for framework in FRAMEWORKS}
    faults = [_planted(fault) for fault in data["faults"]]
    described = _environment(data["environment"]), data["model"], data["steps"], data["layers"]
    return Effects(*described, intact, faults)


def _planted(data: dict[str, Any]) -> Planted:
    texts = {name: data.get(name, "") for name in Planted.__annotations__ if name != "run"}
    return Planted(**texts, run=_run(data))


def _run(data: dict[str, Any]) -> Run:
    return Run(
        [float(d) for d in data["layers"]],
        {name: float(d) for name, d in data["gradients"].items()},
        [float(loss) for loss in data["losses"]],
    )


def _environment(data: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return f"{data['hardware']}; {versions}; {data['date']}"
