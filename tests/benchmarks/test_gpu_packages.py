"""Which packages the GPU's benchmark installs, and the script that prepares its environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu_packages

ROOT = Path(__file__).parents[2]
PIP = """
import json, os, sys
with open(os.environ["PIP_CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(os.environ.get("PIP_ERROR") or None)
"""


@pytest.mark.parametrize(
    ("driver", "finds_gpu", "jax", "index"),
    [
        (None, False, "jax>=0.10", ()),
        (580, True, "jax>=0.10", ()),
        (580, False, "jax[cuda13]>=0.10,!=0.10.2,!=0.11.0", ()),
        (570, False, "jax[cuda12]>=0.10,!=0.10.2,!=0.11.0", gpu_packages.CUDA_12_INDEX),
    ],
)
def test_the_packages_fit_the_driver(driver, finds_gpu, jax, index, monkeypatch):
    monkeypatch.setattr(gpu_packages, "jax_finds_gpu", lambda: finds_gpu)
    basic, for_torch, for_jax = gpu_packages.groups(driver)
    assert for_torch == ["torch>=2.11", "transformers>=5.0", *index]
    assert for_jax == [jax, "flax>=0.12", "optax>=0.2.5"]
    names = {line.split(">")[0] for line in basic}
    assert {"numpy", "tiktoken", "safetensors", "rich", "tyro", "pytest", "scipy"} <= names
    assert not {"torch", "jax", "flax", "optax", "transformers", "ruff", "mypy"} & names


def test_the_driver_is_nvidia_smis(nvidia_smi):
    assert gpu_packages.driver() == 580
    nvidia_smi("echo 'NVIDIA-SMI has failed'; exit 9")
    assert gpu_packages.driver() is None


@pytest.mark.parametrize(("fails", "code"), [("rich", 1), ("torch", 0), ("jax", 0), ("", 0)])
def test_only_what_both_frameworks_need_must_be_installed(fails, code, monkeypatch, capsys):
    """A failure is one line, which ends with pip's last."""

    def pip(*arguments):
        failed = bool(fails) and any(each.startswith(fails) for each in arguments)
        stdout = "a 1 needs b\n" if arguments == ("check",) else ""
        return SimpleNamespace(
            returncode=failed, stderr="WARNING: retry\nERROR: none\n", stdout=stdout
        )

    monkeypatch.setattr(gpu_packages, "pip", pip)
    monkeypatch.setattr(gpu_packages, "driver", lambda: None)
    assert gpu_packages.main() == code
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("error: ")] == [
        line for line in errors if fails and fails in line and line.endswith(": ERROR: none")
    ]
    assert len(errors) == bool(fails) + (not code)
    assert code or errors[-1] == "note: pip check: a 1 needs b"


@pytest.fixture
def script(nvidia_smi, tmp_path):
    """Run gpu.sh with a pip that notes its arguments, and without some packages."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "pip.py").write_text(PIP)

    def run(*flags, absent=(), **environ):
        for name in absent:
            error = f"raise ModuleNotFoundError('No module named {name}', name='{name}')\n"
            (stubs / f"{name}.py").write_text(error)
        calls = tmp_path / "calls"
        environ = {"PYTHON": sys.executable, "PIP_CALLS": str(calls), **environ}
        result = subprocess.run(
            [ROOT / "benchmarks" / "gpu.sh", *map(str, flags)],
            capture_output=True,
            text=True,
            timeout=900,
            env=os.environ | {"PYTHONPATH": str(stubs), "OMP_NUM_THREADS": "1", **environ},
        )
        lines = calls.read_text().splitlines() if calls.exists() else []
        return result, [json.loads(line) for line in lines]

    return run


def test_without_either_framework_the_script_says_so_last(script, tmp_path):
    """Although there is a GPU, and pip says that it has installed them."""
    result, calls = script("--out", tmp_path / "out", absent=("torch", "jax"))
    assert result.returncode == 1
    assert [call[0] for call in calls] == ["--disable-pip-version-check"] * 4
    assert "jax[cuda13]>=0.10,!=0.10.2,!=0.11.0" in calls[2]
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: no framework can compute on the GPU: torch: ")
    assert "this needs torch: pip install torch; flax: " in last
    assert "this needs jax: pip install jax" in last
    assert "NVIDIA H100 80GB HBM3, 81559 MiB, driver 580.65.06" in result.stdout
    assert "SM clock 345 MHz of 1980 MHz" in result.stdout


def test_if_pip_fails_the_script_ends(script):
    result, calls = script(PIP_ERROR="ERROR: No matching distribution found for rich")
    assert (result.returncode, len(calls)) == (1, 1)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: pip cannot install ")
    assert line.endswith(": ERROR: No matching distribution found for rich")


def test_an_interpreter_that_does_not_exist(script):
    result, calls = script(PYTHON="/nowhere/python")
    assert (result.returncode, calls) == (1, [])
    assert result.stderr == "error: PYTHON: expected an interpreter, got /nowhere/python\n"


@pytest.mark.slow
@pytest.mark.parametrize("absent", [(), ("torch",), ("jax",)])
def test_the_whole_script_on_a_cpu(absent, script, tmp_path):
    """A framework that is missing is named; the other is compared and measured."""
    out = tmp_path / "out"
    flags = ("--device", "cpu", "--preset", "tiny", "--minutes", 30, "--out", out)
    result, _ = script(*flags, absent=absent)
    assert result.returncode == 0, result.stderr
    found = json.loads((out / "gpu.json").read_text())
    missing = {"torch": {"torch", "huggingface"}, "jax": {"flax"}}[absent[0]] if absent else set()
    assert {r["framework"] for r in found["parity"]} == {"torch", "flax"} - missing
    assert all(r["passed"] and not r["error"] for r in found["parity"])
    for each in (*found["ladder"], *found["best"]):
        if each["name"] in missing:
            assert f"this needs {absent[0]}" in each["error"]
        elif each["dtype"] == "tf32":
            assert each["error"] == "a CPU has no TF32"
        else:
            assert each["tokens_per_second"] > 0
    assert {path.suffix for path in out.iterdir()} == {".json", ".png"}
