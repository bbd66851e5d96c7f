"""The short form of `make gpu-proof`, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROOF = Path(__file__).parent / "gpu_proof"


def test_flax_compiles_for_a_gpu():
    """Two layers, in an environment with jax's CUDA plugin; jax chooses its platforms once."""
    pytest.importorskip("jax_cuda13_plugin", reason='needs pip install -e ".[cuda]"')
    environ = {"JAX_PLATFORMS": "cuda,cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    check("-m", "pytest", "-q", str(PROOF / "test_flax.py"), environ=environ)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a library that is preloaded")
def test_torch_trains_on_fake_cuda_tensors():
    path = str(PROOF / "test_torch_step.py")
    check("-m", "benchmarks.fake_cuda", "-m", "pytest", "-q", path)


def check(*command, environ=None):
    """Tests pass, and none is skipped."""
    result = subprocess.run(
        [sys.executable, *command],
        env=os.environ | (environ or {}),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout
    assert " skipped" not in result.stdout
