"""The comparisons on an NVIDIA GPU, each kind of matrix product against the reference.

Run them by themselves, `pytest -m gpu`: jax sees no GPU in a process that has asked for the CPU.
"""

import os

import numpy as np
import pytest
import torch

from gpt_common.checkpoint import Checkpoint
from gpt_common.config import OptimizerOptions, SamplingOptions, StoppingOptions
from gpt_flax import device as flax_device
from gpt_torch import device as torch_device
from gpt_torch.train import async_to_host, to_device
from tests.conftest import FRAMEWORKS, random_weights
from tests.parity import reference
from tests.parity.comparisons import SHAPE, SMALL, grown_gpt2, passes, real_tokens, runs
from tests.parity.test_generation import differing, ragged_prompts
from tests.parity.tolerances import LIMITS, outcome_differences, training_differences
from tests.parity.twins import completions

pytestmark = pytest.mark.gpu
DTYPES = ("float64", "float32", "tf32", "bfloat16")


@pytest.fixture(autouse=True)
def _gpu():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave torch some memory
    for device in (torch_device, flax_device):
        if "cuda" not in device.available_devices():
            pytest.skip(f"{device.__name__} finds no NVIDIA GPU")


def test_a_small_model(agree):
    start = Checkpoint(SMALL, random_weights(SMALL))
    x, y = reference.batch(real_tokens(SMALL.vocab_size), 0, 3, 17)
    for framework, dtype, found, expected in passes(start, x, y, DTYPES, "cuda"):
        agree(f"cuda {dtype} {framework}", outcome_differences(found, expected), LIMITS[dtype])


def test_training_a_small_model(agree):
    start = Checkpoint(SMALL, random_weights(SMALL, scale=0.1))
    options, tokens = OptimizerOptions(learning_rate=1e-3), real_tokens(SMALL.vocab_size)
    for framework, dtype, _, found, expected in runs(
        start, tokens, 2, 11, options, (1, 12), DTYPES, "cuda"
    ):
        differences = training_differences(found, expected)
        agree(f"cuda training {dtype} {framework}", differences, LIMITS[dtype])


def test_a_number_is_read_while_later_work_goes_on():
    a = torch.ones(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    metrics = async_to_host({"loss": a[0, 0] + 1.5})
    for _ in range(100):
        a = a @ a / 4096
    later = torch.cuda.Event()
    later.record()
    assert float(metrics["loss"]) == 2.5
    assert not later.query()
    assert to_device(np.arange(3, dtype=np.int32), a.device).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_both_twins_write_the_same(dtype):
    """On the GPU, and what the torch twin writes on the CPU."""
    start, sampling = Checkpoint(SMALL, random_weights(SMALL)), SamplingOptions(top_p=0.9)
    prompts, stopping = ragged_prompts(SMALL, 24), StoppingOptions(max_length=23)
    how = (start, prompts, sampling, stopping, 2, dtype)
    ours, theirs = (completions(framework, *how, "cuda") for framework in FRAMEWORKS)
    assert differing(ours, theirs, dtype) <= 2
    assert differing(ours, completions("torch", *how, "cpu"), dtype) <= 2


@pytest.mark.slow
def test_gpt2(agree):
    x, y = reference.batch(real_tokens(), 0, 2, 256)
    for framework, dtype, found, expected in passes(grown_gpt2(), x, y, DTYPES[1:], "cuda"):
        differences = outcome_differences(found, expected)
        agree(f"cuda 124M {dtype} {framework}", differences, LIMITS[dtype])


@pytest.mark.slow
def test_training_gpt2(agree):
    options, tokens = OptimizerOptions(), real_tokens()
    for framework, dtype, step, found, expected in runs(
        grown_gpt2(), tokens, *SHAPE, options, (1, 10), DTYPES[1:], "cuda"
    ):
        differences = training_differences(found, expected)
        agree(f"cuda 124M {step} steps {dtype} {framework}", differences, LIMITS[dtype])
