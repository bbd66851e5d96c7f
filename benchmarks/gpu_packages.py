"""Install what the GPU's benchmark needs and this interpreter lacks; benchmarks/gpu.sh runs it.

Standard library only. pip keeps what is installed and fits pyproject.toml, the machine's own torch
and jax included; if nothing is missing, it needs no network.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
TORCH, JAX = ("torch", "transformers"), ("jax", "flax", "optax")
TESTS = ("pytest", "hypothesis", "scipy")
CUDA_13_DRIVER = 580  # the first that runs CUDA 13, for which torch on PyPI is built
CUDA_12_INDEX = ("--extra-index-url", "https://download.pytorch.org/whl/cu126")


def driver() -> int | None:
    """Return the major version of NVIDIA's driver, or None without one."""
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
        return int(answer.stdout.split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def jax_finds_gpu() -> bool:
    """Whether jax is installed with a plugin that can use the GPU."""
    program = (sys.executable, "-c", "import jax; jax.devices('gpu')")
    return subprocess.run(program, capture_output=True).returncode == 0


def groups(driver: int | None) -> list[list[str]]:
    """Return pip's arguments in three groups: for all, for PyTorch, for JAX."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras, old = project["optional-dependencies"], driver is not None and driver < CUDA_13_DRIVER
    needed = {re.split(r"[^\w-]", line)[0]: line for line in project["dependencies"]}
    dev = {re.split(r"[^\w-]", line)[0]: line for line in extras["dev"]}
    needed |= {name: dev[name] for name in (*TESTS, "transformers")}
    torch, jax = ([needed.pop(name) for name in names] for names in (TORCH, JAX))
    if driver and not jax_finds_gpu():
        jax[:1] = extras["cuda12" if old else "cuda"]
    return [list(needed.values()), [*torch, *(CUDA_12_INDEX if old else ())], jax]


def pip(*arguments: str) -> subprocess.CompletedProcess:
    """Run pip, quietly."""
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)
    return subprocess.run(command, capture_output=True, text=True)


def install(requirements: Sequence[str]) -> bool:
    """Install what is missing; return whether all is there, else print why not, in one line."""
    print("pip install", *requirements, flush=True)
    found = pip("install", "--quiet", "--retries", "2", *requirements)
    if found.returncode:
        reason = (found.stderr.strip() or f"exit code {found.returncode}").splitlines()[-1]
        print(f"error: pip cannot install {' '.join(requirements)}: {reason}", file=sys.stderr)
    return not found.returncode


def main() -> int:
    """Return the exit code: 1 if the benchmark cannot run, 0 if one framework may be missing."""
    basic, *frameworks = groups(driver())
    if not install(basic):
        return 1
    for requirements in frameworks:
        install(requirements)
    for conflict in pip("check").stdout.splitlines():
        if "No broken requirements" not in conflict:
            print(f"note: pip check: {conflict}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
