"""The twins, called with numpy arrays. A framework is imported when its twin is called."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gpt_common.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from gpt_common.completion import Completion
from gpt_common.config import (
    DataOptions,
    Device,
    Dtype,
    GPTConfig,
    ModelOptions,
    OptimizerOptions,
    OutputOptions,
    RuntimeOptions,
    SamplingOptions,
    StoppingOptions,
    TrainConfig,
)
from gpt_common.data import BatchLoader
from gpt_common.metrics import read_log
from gpt_common.scoring import Logprobs
from gpt_common.weights import Array, Weights
from tests.parity.reference import Outcome, Training

FRAMEWORKS = ("torch", "flax")


def twin(framework: str) -> ModuleType:
    """Return `torch_twin` or `flax_twin`."""
    return importlib.import_module(f"tests.parity.{framework}_twin")


def outcome(
    framework: str,
    config: GPTConfig,
    weights: Weights,
    x: Array,
    y: Array,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    **how: bool,
) -> Outcome:
    """Run a twin forward and backward on `(B, T)` tokens and targets."""
    return twin(framework).outcome(Checkpoint(config, weights), x, y, dtype, device, **how)


def train_twin(
    framework: str,
    start: Checkpoint,
    tokens: Array,
    B: int,
    T: int,
    options: OptimizerOptions,
    folder: Path,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    **runtime: Any,
) -> Training:
    """Train a twin through its own command's code, from a checkpoint and a file of tokens."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "tokens.npy", tokens.astype(np.uint16))
    write_checkpoint(folder / "start", start)
    config = TrainConfig(
        model=ModelOptions(init=str(folder / "start")),
        data=DataOptions(str(folder / "tokens.npy"), 0.0, batch_size=B, seq_len=T),
        optimizer=options,
        runtime=RuntimeOptions(device=device, dtype=dtype, **runtime),
        output=OutputOptions(out_dir=str(folder / f"run-{framework}")),
    )
    twin(framework).train(config)
    return read_training(folder / f"run-{framework}")


def read_training(run: Path) -> Training:
    """Return what a run left in its folder."""
    end, log = read_checkpoint(run), read_log(run / "log.jsonl")
    steps = [entry for entry in log if "loss" in entry]
    return Training(
        [entry["loss"] for entry in steps],
        [entry["grad_norm"] for entry in steps],
        end.weights,
        end.training.exp_avg,
        end.training.exp_avg_sq,
    )


def evaluation(framework: str, start: Checkpoint, loader: BatchLoader, steps: int) -> float:
    """Return a twin's validation loss over the first batches of a loader, in float64."""
    return twin(framework).evaluation(start, loader, steps)


def completions(
    framework: str,
    start: Checkpoint,
    prompts: list[list[int]],
    sampling: SamplingOptions,
    stopping: StoppingOptions,
    num_samples: int = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    exact: bool = False,
    **compiled: bool,
) -> list[Completion]:
    """Continue prompts in a twin, through its library call and with inference weights."""
    how = sampling, stopping, num_samples
    return twin(framework).completions(start, prompts, how, dtype, device, exact, **compiled)


def inference_logits(framework: str, start: Checkpoint, x: Array) -> Array:
    """Return the float32 logits `(B, T, V)` of inference weights, on a CPU."""
    return twin(framework).inference_logits(start, x)


def logprobs(framework: str, start: Checkpoint, dtype: Dtype, device: Device = "cpu") -> Logprobs:
    """Return a twin's function from tokens and targets, `(B, T)`, to log-probabilities."""
    return twin(framework).logprobs(start, dtype, device)
