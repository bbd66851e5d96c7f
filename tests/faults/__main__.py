"""Mutation testing: apply known faults, each to its own copy, and require that a test fails.

python -m tests.faults --sample 10
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from gpt_common import cli
from gpt_common.errors import InputError, require_not_negative, require_positive
from tests.faults.fault import Fault
from tests.faults.registry import FAULTS

ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs", "models")
# Tests of a file beside those that bear its name, or before them where they are much faster.
TESTED_BY = {
    "model": ("generation", "model"),
    "train": ("training", "fast", "run", "train", "generate", "torch", "parallel"),
    "optimizer": ("training", "loss_scale", "train", "torch"),
    "fast": ("fast", "model", "torch"),
    "sampling": ("sampling", "torch"),
    "precision": ("precision", "model", "train"),
    **dict.fromkeys(("hardware", "device"), ("fast", "torch")),
    "token_files": ("data",),
    **dict.fromkeys(("texts", "downloads"), ("data",)),
    "cache": ("data", "generation", "torch"),
    "progress": ("data", "evaluate"),
    "documents": ("documents", "prepare"),
    "shards": ("shards", "prepare"),
    "tokenizer": ("tokenizer", "prepare"),
    "distributed": ("processes", "failures"),
    "parallel": ("failures", "parallel"),
    "watchdog": ("processes", "failures"),
    **dict.fromkeys(
        ("run", "resume"),
        (
            *("prefetch", "recipes", "run", "train", "loss_scale", "generate"),
            *("processes", "failures", "recovery"),
        ),
    ),
    **dict.fromkeys(("run_folder", "hf_config"), ("checkpoint", "run")),
    **{name: (name, "run") for name in ("checkpoint", "cli", "lock")},
    "metrics": ("metrics", "run", "loss_scale"),
    **dict.fromkeys(("memory", "startup"), ("estimate", "cli", "run")),
    **dict.fromkeys(("recipes", "config"), ("recipes", "config", "commands")),
    **dict.fromkeys(("estimate", "dry_run"), ("estimate", "dry_run", "run")),
    "trackers": ("trackers",),
    "commands": ("commands",),
    "lazy": ("lazy",),
    **dict.fromkeys(
        ("pairs", "align", "figures", "columns", "charts", "shapes", "breaks"), ("twin_pages",)
    ),
    **dict.fromkeys(
        ("generate", "inference"), ("lazy", "generation", "inference", "generate", "torch")
    ),
    "hellaswag": ("hellaswag", "evaluation"),
    **dict.fromkeys(("scoring", "evaluation", "evaluate"), ("evaluation", "evaluate")),
    "repl": ("generate", "completion"),
    "__main__": ("convert", "publish"),
    "publish": ("publish",),
    "names": ("formats_foreign", "formats_refused"),
    "__init__": ("run",),
    **dict.fromkeys(("nanogpt", "karpathy"), ("nanogpt", "formats_foreign")),
    "errors": ("config", "hostile"),
    **dict.fromkeys(("storage", "weights"), ("storage", "hostile", "overwrite")),
    **dict.fromkeys(("torch_files", "msgpack_files", "orbax"), ("hostile", "overwrite")),
    **dict.fromkeys(("destination", "base", "llmc"), ("overwrite",)),
    **dict.fromkeys(("openai", "build_nanogpt"), ("hostile", "formats_foreign")),
    "huggingface_hub": ("formats_hub",),
}
SECONDS = 1200  # in which the tests must have failed


@dataclass(frozen=True)
class FaultsConfig:
    """Apply known faults, each to its own copy of the project, and require that a test fails."""

    only: tuple[str, ...] = ()
    """Faults whose name or place (file::function) contains one of these; by default all."""
    sample: int = 0
    """Number of faults, drawn at random; 0 takes all."""
    seed: int = field(default_factory=lambda: int(time.time()))
    """Seed of the sample."""
    jobs: int = 2
    """Faults tried at a time."""
    tests: tuple[str, ...] = ("tests/parity", "tests")
    """What pytest runs, in this order, after the tests of the file with the fault."""
    list: bool = False
    """Print the faults and apply none."""

    def __post_init__(self) -> None:
        require_positive("jobs", self.jobs)
        for name in ("sample", "seed"):
            require_not_negative(name, getattr(self, name))


@dataclass(frozen=True)
class Verdict:
    """What became of a fault: the test that caught it, or why none did."""

    fault: Fault
    caught: bool
    words: str
    seconds: float


def chosen(config: FaultsConfig) -> list[Fault]:
    """Return the faults to apply. Raises `InputError` if there are none."""
    words = config.only or ("",)
    named = [f for f in FAULTS if any(word in f.name or word in f.place for word in words)]
    if not named:
        raise InputError(f"expected part of a fault's name or place, got {' '.join(words)}")
    if not config.sample:
        return named
    return random.Random(config.seed).sample(named, min(config.sample, len(named)))


def try_fault(fault: Fault, config: FaultsConfig) -> Verdict:
    """Apply a fault to a copy, run the tests there until one fails, and say which."""
    start = time.perf_counter()
    with faulty_copy(fault) as copy:
        caught, words = run_tests(fault, copy, config)
    return Verdict(fault, caught, words, time.perf_counter() - start)


@contextlib.contextmanager
def faulty_copy(fault: Fault) -> Iterator[Path]:
    """Give the folder of a copy of the project with a fault, and remove it in the end."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        path = copy / fault.file
        path.write_text(fault.apply(path.read_text()))
        yield copy


def run_tests(fault: Fault, copy: Path, config: FaultsConfig) -> tuple[bool, str]:
    """Return whether a test failed, and its name; a fault must not keep tests from starting.

    In two runs, as pytest puts a file back into its folder's order where both are asked for.
    """
    for tests in (tuple(matching_tests(fault.file, copy)), config.tests):
        if tests and (verdict := run_pytest(tests, copy, config)):
            return verdict
    return False, "survived"


def run_pytest(tests: tuple[str, ...], copy: Path, config: FaultsConfig) -> tuple[bool, str] | None:
    """Run tests until one fails; return what came of it, or None where all passed."""
    pytest = ["-m", "pytest", "-m", "not slow", "-x", "-q", "-p", "no:cacheprovider"]
    pytest += ["--ignore", "tests/faults", *tests]  # whose own tests see any change
    try:
        done = run_python(pytest, copy, max(1, (os.cpu_count() or 1) // config.jobs))
    except subprocess.TimeoutExpired:
        return False, f"no failure in {SECONDS} s"
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode == 1 and failed:
        return True, failed[0].partition(" ")[2].partition(" - ")[0]  # ids may have spaces
    return False, f"pytest stopped with code {done.returncode}: {done.stdout[-300:]}"


def run_python(arguments: list[str], copy: Path, threads: int) -> subprocess.CompletedProcess[str]:
    """Run python in a copy of the project, on that copy."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),  # before an installed gpt-twins
        "GPT_TWINS_CACHE": str(copy / ".cache"),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),  # by program: no mix-up
        "OMP_NUM_THREADS": str(threads),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def matching_tests(file: str, root: Path) -> Iterator[str]:
    """Yield the tests that are about a file: they catch its faults soonest."""
    package = Path("tests", Path(file).parts[0])
    if (root / package).is_dir():
        yield str(package)
        return
    stem = Path(file).stem
    for subject in TESTED_BY.get(stem, (stem,)):
        for folder in ("tests/parity", "tests", "tests/gpu_proof", "tests/parallel"):
            name = f"{folder}/test_{subject}.py"
            if (root / name).exists():
                yield name


def try_all(config: FaultsConfig) -> bool:
    """Try the chosen faults, print the table, and return whether all were caught."""
    faults = chosen(config)
    print(f"applying {len(faults)} of {len(FAULTS)} faults, seed {config.seed}", flush=True)
    verdicts = []
    with ThreadPoolExecutor(config.jobs) as pool:
        for done in as_completed(pool.submit(try_fault, fault, config) for fault in faults):
            verdicts.append(verdict := done.result())
            mark = "caught" if verdict.caught else "MISSED"
            print(
                f"{mark} {verdict.seconds:5.0f} s  {verdict.fault.name}: {verdict.words}",
                flush=True,
            )
    caught = sum(verdict.caught for verdict in verdicts)
    print(f"{caught} of {len(verdicts)} faults caught")
    return caught == len(verdicts)


def main() -> None:
    """Run the command line; exit code 1 where a fault survives."""
    config = cli.parse(FaultsConfig, "tests.faults")
    if config.list:
        for fault in chosen(config):
            print(f"{fault.name}\n    {fault.place}: {fault.before}  ->  {fault.after}")
    elif not try_all(config):
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
