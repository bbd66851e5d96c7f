import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch counts the cores, in child processes too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What one test, worker or child process compiles serves the others, and the next run of the tests.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from gpt_common import cli
from gpt_common.checkpoint import Checkpoint, TrainingState, write_checkpoint
from gpt_common.config import GPTConfig
from gpt_common.weights import Weights, weight_shapes

FRAMEWORKS = ("torch", "flax")
FLOAT32 = ("--dtype", "float32")  # in which twins agree; by default a GPU takes bfloat16
CPU = ("--device", "cpu")  # where float32 is the default

# A run as short as they come: its context is too short for samples, which take Flax the most time.
TINY = ("--preset", "tiny", "--block_size", 8, "--seq_len", 8, "--eval_every", 0)

hypothesis.settings.register_profile(  # no test asserts a time
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config):
    """Let XLA compile the fast tests' programs, of which most run once, with less effort.

    What it takes for them comes to half, and `make parity` holds what it makes with all effort.
    And take the signals that tests send, which nohup and shells' background jobs ignore.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, 0)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if config.option.markexpr == "not slow":
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Keep downloads and encoded texts out of the user's cache, for child processes too."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT_TWINS_CACHE", str(folder))
        yield folder


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture
def odd_config():
    """Sizes that share no factor, so that no wrong axis fits by chance."""
    return GPTConfig(n_layer=3, n_head=5, n_embd=40, block_size=23, vocab_size=997)


def random_weights(config: GPTConfig, seed: int = 0, scale: float = 0.2) -> Weights:
    """Weights of which none is zero or one, biases and norms included."""
    random = np.random.default_rng(seed)
    return {
        name: (scale * random.standard_normal(shape) + ("ln_" in name)).astype(np.float32)
        for name, shape in weight_shapes(config).items()
    }


def random_checkpoint(config: GPTConfig, step: int = 7) -> Checkpoint:
    squares = {k: v**2 for k, v in random_weights(config, 3, 1e-3).items()}
    training = TrainingState(step, random_weights(config, 2, 1e-3), squares, {"position": 40})
    return Checkpoint(config, random_weights(config), training)


@pytest.fixture
def checkpoint_folder(odd_config, tmp_path) -> Path:
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, random_checkpoint(odd_config))
    return folder


def command(module: str, *args: object, **kwargs) -> subprocess.CompletedProcess:
    """Run `python -m module` in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, args)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
        timeout=300,
        **kwargs,
    )


@contextlib.contextmanager
def kept_jax_config() -> Iterator[None]:
    """Give jax its settings back: `select_device` changes them for the whole process."""
    import jax  # here, as children that need none of it import this file

    names = ("jax_enable_x64", "jax_default_device", "jax_default_matmul_precision")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.fixture
def call(capsys, monkeypatch):
    """Run `python -m module` in this process, which saves the seconds that its imports take."""

    def call(module: str, *args: object) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", [module, *map(str, args)])
        code = 0
        try:
            with kept_jax_config():
                cli.run(importlib.import_module(module).main)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(args, code, captured.out, captured.err)

    return call


@pytest.fixture
def train(call):
    """Train in this process, and return what is printed."""

    def train(framework, *args):
        result = call(f"gpt_{framework}.train", *args)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return train


def assert_one_line_error(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr
