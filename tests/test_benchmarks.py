"""The benchmarks' commands on a tiny model: arguments, output, failures, the GPU's script."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from benchmarks import report, train_step
from benchmarks.candidate import stderr_console
from benchmarks.implementations import BY_NAME, select_implementations
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.spec import Spec
from benchmarks.timing import seconds_per_call
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import PRESETS, GPTConfig, OptimizerOptions, TrainConfig
from gpt_common.errors import InputError
from gpt_common.flops import flops_per_token
from gpt_flax.model import GPT
from gpt_flax.optimizer import create_optimizer
from gpt_flax.train import create_state
from gpt_flax.train import train_step as flax_train_step
from tests.conftest import assert_one_line_error, command, random_weights

ROOT = Path(__file__).parent.parent
TINY = ("--preset", "tiny", "--device", "cpu")
QUICK = ("--rounds", 1, "--steps", 2, "--warmup", 0)


def last_line(result: subprocess.CompletedProcess) -> dict:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The result of every implementation, the output, and the file."""
    out = tmp_path_factory.mktemp("results") / "train.json"
    found = command("benchmarks.train_step", *TINY, *QUICK, "--seq_len", 16, "--out", out)
    return last_line(found), found.stdout, out


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "generate.json"
    flags = ("--prompt_length", 4, "--new_tokens", 3, "--rounds", 1, "--batch_size", 1, 2)
    found = command("benchmarks.generate", *TINY, *flags, "--out", out)
    return last_line(found), found.stdout, out


@pytest.mark.slow
def test_train_step_measures_every_implementation(trained):
    result, text, out = trained
    assert json.loads(out.read_text()) == result
    assert [p["name"] for p in result["programs"]] == [
        "torch", "flax", "huggingface", "huggingface-best"
    ]  # fmt: skip
    assert result["command"].startswith("python -m benchmarks.train_step --preset tiny")
    assert {"processor", "torch", "jax", "date"} <= result["environment"].keys()
    for program in result["programs"]:
        assert len(program["seconds"]) == 2
        times = program["milliseconds"]
        assert 0 < times["min"] <= times["median"] <= times["max"]
        for loss in ("first_loss", "last_loss"):
            assert program[loss] == pytest.approx(np.log(50257), abs=0.1)
        assert program["peak_memory"] > 1e8
        assert program["matmul_peak"] == max(program["matmuls"].values())
        assert {name.split(":")[0] for name in program["matmuls"]} == {"torch", "flax"}
        assert program["name"] in text
    rates = {program["name"]: program["tokens_per_second"] for program in result["programs"]}
    for program in result["programs"]:
        ratio = rates[program["name"]] / rates["huggingface"]
        assert program["times"]["huggingface"] == pytest.approx(ratio)


@pytest.mark.slow
def test_the_figures_of_a_step_follow_from_its_seconds(trained):
    result, _, _ = trained
    flops = 4 * 16 * flops_per_token(PRESETS["tiny"], 16)
    for program in result["programs"]:
        seconds = np.median(program["seconds"])
        assert program["tokens_per_second"] == pytest.approx(4 * 16 / seconds)
        assert program["flops_per_second"] == pytest.approx(flops / seconds)
        share = flops / seconds / program["matmul_peak"]
        assert program["share_of_matmul_peak"] == pytest.approx(share)


@pytest.mark.slow
def test_the_twins_train_on_the_same_batches(trained):
    torch, flax = trained[0]["programs"][:2]
    for loss in ("first_loss", "last_loss"):
        assert torch[loss] == pytest.approx(flax[loss], rel=1e-5)


@pytest.mark.slow
def test_generate_measures_every_case(generated):
    result, text, out = generated
    assert json.loads(out.read_text()) == result
    assert result["step_bytes"] == 4 * (404_328 - 64 * 8)
    for program in result["programs"]:
        assert program["name"] in text
        assert [case["batch_size"] for case in program["cases"]] == [1, 2]
        for case in program["cases"]:
            assert case["length"] == 4 + 3
            seconds = case["milliseconds"]["median"] / 1000
            rate = case["batch_size"] * 3 / seconds
            assert case["tokens_per_second"] == pytest.approx(rate)
            limit = case["batch_size"] * max(program["reads"].values()) / result["step_bytes"]
            assert case["limits_tokens_per_second"]["bandwidth"] == pytest.approx(limit)
            limits = case["limits_tokens_per_second"].values()
            assert case["limit_tokens_per_second"] == min(limits)


@pytest.mark.slow
def test_scaling_is_measured_and_plotted(tmp_path, call):
    out = tmp_path / "scaling.json"
    axes = ("--vary", "depth", "--depth", 1, 2, "--seq_len", 8, "--framework", "torch")
    result = last_line(call("benchmarks.scaling", *TINY, *QUICK, *axes, "--out", out))
    depths = [point["model"]["n_layer"] for point in result["series"]["depth"]]
    assert depths == [1, 2]
    assert_plots(call, out)


@pytest.mark.slow
def test_data_and_conversion_are_measured(call):
    result = last_line(call("benchmarks.data", *TINY, "--seq_len", 16, "--rounds", 1))
    assert result["tokenizer"]["characters"] == 1_115_394
    step = result["programs"][0]["milliseconds"]["median"]
    share = result["loader"]["milliseconds"]["median"] / step
    assert result["loader"]["share_of_step"] == pytest.approx(share)
    flags = ("--preset", "tiny", "--format", "nanogpt", "llmc")
    result = last_line(call("benchmarks.convert", *flags))
    assert [found["name"] for found in result["programs"]] == ["nanogpt", "llmc"]
    assert all(found["back"]["peak_memory"] > 1e7 for found in result["programs"])


@pytest.mark.slow
def test_operations_are_measured(call):
    sizes = ("--seq_len", 8, "--batch_size", 2, "--rounds", 1)
    result = last_line(call("benchmarks.operations", *TINY, *sizes))
    measured = {(p["name"], p["operation"], p["dtype"]) for p in result["programs"]}
    assert len(measured) == len(result["programs"])
    for twin in ("torch", "flax"):
        for dtype in ("float32", "bfloat16"):
            assert (twin, "attention", dtype) in measured
    for program in result["programs"]:
        passes = ["forward"] if program["seq_len"] == 1 else ["forward", "forward_backward"]
        assert list(program["speed_up"]) == passes


def assert_plots(call, *results):
    picture = results[0].with_suffix(".png")
    plotted = call("benchmarks.plot", *results, "--out", picture)
    assert plotted.returncode == 0, plotted.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_results_are_plotted(trained, generated, call, tmp_path):
    assert_plots(call, trained[2], trained[2])
    assert_plots(call, generated[2])
    both = call("benchmarks.plot", trained[2], generated[2], "--out", tmp_path / "no.png")
    assert_one_line_error(both, "expected results of one benchmark", "generate, train_step")
    (tmp_path / "other.json").write_text("[1]")
    other = call("benchmarks.plot", tmp_path / "other.json", "--out", tmp_path / "no.png")
    assert_one_line_error(other, "other.json: expected the result of a benchmark")
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize(
    ("module", "args", "words"),
    [
        ("train_step", ("--preset", "tiny", "--seq_len", 65), ("at most the 64 tokens", "65")),
        ("train_step", ("--framework", "theano"), ("theano",)),
        ("train_step", ("--rounds", 0), ("rounds must be positive",)),
        ("train_step", ("--flax_peer_python", "/nowhere"), ("expected an interpreter",)),
        ("generate", ("--preset", "tiny", "--new_tokens", 60), ("at most the 64 tokens", "68")),
        ("generate", ("--batch_size", 0), ("batch_size must be positive",)),
        ("operations", ("--preset", "tiny", "--seq_len", 65), ("at most the 64 tokens", "65")),
        ("operations", ("--seq_len", 1), ("seq_len above 1 must be positive",)),
        ("scaling", ("--preset", "tiny", "--vary", "width", "--width", 6), ("multiples of 4",)),
        ("convert", ("--format", "openai"), ("expected one of", "got openai")),
        ("data", ("--preset", "tiny"), ("at most the 64 tokens",)),
        ("gpu", ("--minutes", 0), ("minutes must be positive",)),
        ("plot", ("--out", "a.png"), ("expected one or more result files",)),
    ],
)
def test_wrong_input_is_one_line(module, args, words, call):
    assert_one_line_error(call(f"benchmarks.{module}", *args), *words)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("train_step", "Time training steps of both twins and of Hugging Face's GPT-2"),
        ("generate", "Time generation in both twins and in Hugging Face's GPT-2"),
        ("operations", "Time each fast operation against the plain one that it replaces"),
        ("roofline", "Count what a GPU does in a training step, and the least time for it"),
        ("scaling", "Time training steps as depth, width, context and batch grow"),
        ("data", "Time the tokenizer, on as much text as tiny Shakespeare has"),
        ("convert", "Time conversions from the Hugging Face folder to every format and back"),
        ("gpu", "Compare with the reference, then measure training and generation, on one GPU"),
        ("plot", "Plot results of one benchmark: train_step, generate, scaling or gpu"),
        ("plot_losses", "Plot the losses of runs and, if there are two, their relative difference"),
    ],
)
def test_help_begins_with_what_is_measured(module, words, call):
    result = call(f"benchmarks.{module}", "--help")
    assert result.returncode == 0
    usage, opening, *_ = result.stdout.split("\n\n")
    assert usage.startswith(f"usage: python -m benchmarks.{module} ")
    assert " ".join(opening.split()).startswith(words)
    assert "--out" in result.stdout


def test_a_failure_is_reported_and_the_others_continue(tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(100, dtype=np.uint16))
    spec = Spec(PRESETS["tiny"], str(tmp_path / "tokens.npy"), "cpu", seq_len=8, batch_size=2)
    broken = dataclasses.replace(BY_NAME["flax"], worker="no_such_worker")
    plan = train_step.Plan(steps=1, rounds=1, warmup=0)
    failed, done = train_step.measure([broken, BY_NAME["torch"]], spec, plan, stderr_console())
    assert "no_such_worker" in failed["error"]
    assert done["milliseconds"]["median"] > 0
    assert train_step.table("", [failed, done]).row_count == 1


def test_only_failures_are_an_error(capsys):
    result = {"benchmark": "train_step", "programs": [{"name": "torch", "error": "gone"}]}
    with pytest.raises(InputError, match="every implementation failed, the first: gone"):
        report.finish(result, [], None)
    assert json.loads(capsys.readouterr().out) == result


def worker(code: str) -> WorkerProcess:
    return WorkerProcess([sys.executable, "-c", code], os.environ)


def test_a_worker_that_exits_or_times_out_says_why():
    with (
        worker("raise SystemExit('I have had enough')") as child,
        pytest.raises(WorkerError, match="the process ended: I have had enough"),
    ):
        child.ask("train")
    with (
        worker("import time; time.sleep(60)") as child,
        pytest.raises(WorkerError, match="no answer within 0 s"),
    ):
        child.ask("train", timeout=0.2)


@pytest.mark.parametrize(("worker_name", "absent"), [("torch_twin", "torch"), ("flax_twin", "jax")])
def test_a_worker_without_its_framework_says_what_to_install(worker_name, absent):
    code = f"""
import runpy, sys
sys.modules[{absent!r}] = None  # as if it were not installed
sys.argv = ["worker", {worker_name!r}]
runpy.run_module("benchmarks.workers.session", run_name="__main__")
"""
    needs = f"the process ended: error: this needs {absent}: pip install {absent}"
    with worker(code) as child, pytest.raises(WorkerError, match=needs):
        child.ask("train")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", True),
        ("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory", True),
        ("ValueError: shapes", False),
    ],
)
def test_out_of_memory_is_told_from_other_failures(message, expected):
    assert WorkerError(message).out_of_memory == expected


def test_prints_do_not_disturb_a_worker():
    code = (
        "from benchmarks.workers.session import serve\n"
        "import os\n"
        "serve({'shout': lambda words: os.system('echo ' + words)})"
    )
    with worker(code) as child:
        assert child.ask("shout", words="hello") == 0


def test_seconds_per_call_counts_the_calls():
    calls, waits = [], []
    seconds = seconds_per_call(lambda: calls.append(1), waits.append, min_run_time=1e-4, rounds=3)
    assert seconds > 0
    assert len(waits) == 1 + 1 + 3
    assert len(calls) > len(waits)


def test_an_implementation_has_its_environment(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    assert BY_NAME["flax"].environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
    assert "mmap_max=0" in BY_NAME["huggingface-best"].environ["GLIBC_TUNABLES"]
    assert [p.name for p in select_implementations(["flax"])] == ["flax"]
    flax = select_implementations(["torch"], sys.executable)[-1]
    assert flax.name == "huggingface-flax"
    assert flax.command[1].endswith("huggingface_flax.py")


def test_the_standalone_worker_imports_nothing_of_this_project():
    text = (ROOT / "benchmarks" / "workers" / "huggingface_flax.py").read_text()
    for package in ("gpt_common", "gpt_torch", "gpt_flax", "from benchmarks", "import benchmarks"):
        assert package not in text


def test_the_flax_training_step_lowers_for_cuda():
    """Lowering needs no GPU, and shows that every operation of the step has a CUDA lowering."""
    shape = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=97)
    optimizer = create_optimizer(OptimizerOptions())
    start = Checkpoint(shape, random_weights(shape))
    state = create_state(start, TrainConfig(), optimizer)
    for dtype in ("float32", "bfloat16"):
        fixed = {"model": GPT(shape), "optimizer": optimizer, "grad_clip": 1.0, "dtype": dtype}
        step = jax.jit(partial(flax_train_step, **fixed))
        tokens = jax.ShapeDtypeStruct((1, 2, 16), jnp.int32)
        lowered = export.export(step, platforms=["cuda"])(state, tokens, tokens, 1e-3)
        assert lowered.platforms == ("cuda",)
        assert "dot_general" in lowered.mlir_module()
