"""The short form of `make gpu-proof` for Flax, in an environment with jax's CUDA plugin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_flax_compiles_for_a_gpu():
    """Two layers; in a process of its own, as jax chooses its platforms once."""
    pytest.importorskip("jax_cuda13_plugin", reason='needs pip install -e ".[cuda]"')
    path = Path(__file__).parent / "gpu_proof" / "test_flax.py"
    environ = {"JAX_PLATFORMS": "cuda,cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(path)],
        env=os.environ | environ, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout
