"""Measure what each classic mistake does, and which test catches it, for the documentation.

python -m tests.faults.effects
"""

import json
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gpt_common import cli
from gpt_common.errors import require_positive
from tests.faults.__main__ import (
    ROOT,
    FaultsConfig,
    faulty_copy,
    run_pytest,
    run_python,
    run_tests,
)
from tests.faults.measure import MODEL, OPTIONS
from tests.faults.mistakes import MISTAKES, Mistake
from tests.figures import environment, write
from tests.parity.twins import FRAMEWORKS

# Where a fault of these files is seen best; if it is not, by the tests of `tests.faults`.
PARITY_TESTS = {
    **dict.fromkeys(("model.py", "weights.py"), "tests/parity/test_model.py"),
    **dict.fromkeys(("optimizer.py", "train.py"), "tests/parity/test_training.py"),
}


@dataclass(frozen=True)
class EffectsConfig:
    """Measure what each classic mistake does, and write it down. It takes minutes."""

    out: Path = Path("docs/figures/faults.json")
    """File to write."""
    jobs: int = 2
    """Mistakes measured at a time."""

    def __post_init__(self) -> None:
        require_positive("jobs", self.jobs)


def effects(config: EffectsConfig) -> dict[str, Any]:
    """Return what the twins compute, intact and with each mistake."""
    with ThreadPoolExecutor(config.jobs) as pool:
        measured = pool.map(partial(measure_in, ROOT), FRAMEWORKS)
        intact = dict(zip(FRAMEWORKS, measured, strict=True))
        faults = list(pool.map(partial(effect, jobs=config.jobs), MISTAKES))
    layers = list(intact["torch"]["layers"])
    for found in (*intact.values(), *faults):
        found["layers"] = [found["layers"][name] for name in layers]
    return {
        "environment": environment(),
        "model": MODEL,
        "steps": OPTIONS.steps,
        "layers": layers,
        "intact": intact,
        "faults": faults,
    }


def effect(mistake: Mistake, jobs: int) -> dict[str, Any]:
    """Return what a mistake is and does, and the first test that fails."""
    description = described(mistake)
    with faulty_copy(mistake.fault) as copy:
        measured = measure_in(copy, mistake.framework)
        caught, test = find_test(mistake, copy, FaultsConfig(jobs=jobs))
    print(f"{mistake.id}: {test}", flush=True)
    outcome = {"outcome": "caught", "caught_by": test} if caught else {"outcome": test}
    return description | measured | outcome


def described(mistake: Mistake) -> dict[str, str]:
    """Return what a mistake is: the line that it is in, before and after."""
    fault = mistake.fault
    before, after = changed_lines(mistake, (ROOT / fault.file).read_text())
    return {
        "id": mistake.id,
        "name": mistake.name,
        "framework": mistake.framework,
        "file": fault.file,
        "function": fault.function,
        "before": before,
        "after": after,
        "why": mistake.why,
    }


def changed_lines(mistake: Mistake, source: str) -> tuple[str, str]:
    """Return the whole line that a mistake changes, and what it makes of it."""
    number = mistake.fault.find(source)[0].lineno
    lines, faulty = source.splitlines(), mistake.fault.apply(source).splitlines()
    after = faulty[number - 1 : len(faulty) - (len(lines) - number)]
    return lines[number - 1].strip(), textwrap.dedent("\n".join(after))


def measure_in(copy: Path, framework: str, steps: int = OPTIONS.steps) -> dict[str, Any]:
    """Measure a twin in a process of its own: it imports the copy's modules."""
    arguments = ["-m", "tests.faults.measure", framework, str(steps)]
    done = run_python(arguments, copy, threads=1)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def find_test(mistake: Mistake, copy: Path, config: FaultsConfig) -> tuple[bool, str]:
    """Return whether a test failed, and its name."""
    parity = PARITY_TESTS[Path(mistake.fault.file).name]
    tests = parity, "-k", mistake.framework
    return run_pytest(tests, copy, config) or run_tests(mistake.fault, copy, config)


def main() -> None:
    """Run the command line."""
    config = cli.parse(EffectsConfig, "tests.faults.effects")
    write(config.out, effects(config))


if __name__ == "__main__":
    cli.run(main)
