"""`--dry_run` as a user meets it."""

import re

import pytest

from gpt_common import dry_run, estimate
from gpt_common.estimate import Footprint, Target
from gpt_common.resume import parse_train_config
from tests.conftest import CPU, TINY, assert_one_line_error

H100 = "NVIDIA H100 80GB HBM3"


def rows(output):
    """The table's rows by name."""
    found = (re.split(r"\s{2,}", line.strip()) for line in output.splitlines())
    return {row[0]: row[1] for row in found if len(row) == 2}


def plan(capsys, target, *args):
    config = parse_train_config("gpt_torch.train", [str(arg) for arg in args])
    dry_run.dry_run(config, "torch", target, lambda path: None)
    return capsys.readouterr().out


def test_it_says_what_a_run_takes_and_makes_nothing(call, framework, tmp_path):
    args = (*TINY, *CPU, "--dry_run", "--out_dir", tmp_path / "run", "--steps", 10)
    result = call(f"gpt_{framework}.train", *args, "--total_batch_tokens", 96)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "run").exists()
    assert f"{framework} on cpu, float32 | 403,880 parameters" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    found = rows(result.stdout)
    assert found["grad_accum"] == "3"
    assert found["tokens of a step"] == "96"
    assert found["tokens of all steps"] == "960"
    assert found["hours"].startswith("unknown")
    total = sum(
        float(found[name].removesuffix(" GB"))
        for name in ("parameters", "gradients", "moments", "activations", "logits")
    )
    assert float(found["all"].removesuffix(" GB")) == pytest.approx(total, abs=0.03)
    assert found["free"].endswith(" GB")


def test_a_run_that_does_not_fit_is_code_2_and_the_number(call, framework, monkeypatch):
    monkeypatch.setattr(estimate, "available_memory", lambda: 10**10)
    args = ("--recipe", "gpt2_350m", *CPU, "--dry_run")
    result = call(f"gpt_{framework}.train", *args)
    assert rows(result.stdout)["free"] == "10.00 GB"
    assert_one_line_error(result, "a step takes", "10.00 GB are free", "make --batch_size")
    assert rows(result.stdout)["all"] in result.stderr


def test_hours_at_a_share_of_the_data_sheet(capsys):
    """19,073 steps of 524,288 tokens, 855 million FLOPs each, at 40 % of 8 times 989 TFLOP/s."""
    target = Target("cuda", mesh=(8, 1), name=H100, free=80 * 10**9)
    recipe = ("--recipe", "gpt2_124m", "--batch_size", 512)
    found = rows(plan(capsys, target, *recipe))
    flops = 524_288 * (6 * 123_653_376 + 12 * 12 * 768 * 1024)
    assert found["FLOPs of a step"] == f"{flops:.3g}"
    hours = 19_073 * flops / (0.4 * 8 * 989e12) / 3600
    assert found["hours at 40% of the data sheet's FLOP/s"] == f"{hours:.1f}"
    faster = rows(plan(capsys, target, *recipe, "--mfu", 0.8))
    assert faster["hours at 80% of the data sheet's FLOP/s"] == f"{hours / 2:.1f}"
    assert found["devices (data x fsdp)"] == "8 x 1"
    assert found["sent in a step"] == f"{2 * 7 / 8 * 4 * 124_475_904 / 1e9:.2f} GB"


def test_what_xla_may_recompute_is_said(capsys):
    target = Target("gpu", Footprint(channel=42, whole_program=True), name=H100, free=80 * 10**9)
    output = plan(capsys, target, "--recipe", "gpt2_124m")
    assert "at least, if XLA recomputes" in rows(output)
    assert all(len(line) <= 80 for line in output.splitlines())


def test_a_resumed_run_may_be_planned(call, train, framework, tmp_path):
    train(framework, *TINY, *CPU, "--n_layer", 3, "--steps", 1, "--out_dir", tmp_path)
    result = call(f"gpt_{framework}.train", "--resume", tmp_path, "--steps", 4, "--dry_run")
    assert result.returncode == 0, result.stderr
    assert rows(result.stdout)["tokens of all steps"] == "128"
    before = sorted(path.name for path in tmp_path.iterdir())
    assert before == [".lock", "latest", "log.jsonl", "step_000001"] or ".lock" not in before


def test_gpus_that_are_not_here_are_planned_for(call, framework):
    args = ("--recipe", "gpt2_1558m", "--dry_run", "--batch_size", 512, "--gpus", 16, "H100")
    result = call(f"gpt_{framework}.train", *args, "--mesh", 2, 8)
    assert result.returncode == 0, result.stderr
    assert f"{framework} on H100, bfloat16 | 1,557,611,200 parameters" in result.stdout
    found = rows(result.stdout)
    assert found["devices (data x fsdp)"] == "2 x 8"
    assert found["free"] == "unknown"
    assert found["a checkpoint"] == f"{12 * 1_557_611_200 / 1e9:.2f} GB"
    assert found["their bytes as uint16"] == f"{2 * 19_073 * 524_288 / 1e9:.2f} GB"
    padded = 1_557_611_200 + 47 * 1600
    assert found["of it along data"] == f"{2 / 2 / 8 * 4 * padded / 1e9:.2f} GB"
    seconds = float(found["seconds of a step"])
    hours = float(found["hours at 40% of the data sheet's FLOP/s"])
    assert hours == pytest.approx(seconds * 19_073 / 3600, abs=0.05)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--gpus", 2, "H100"), "gpus: expected --dry_run with it"),
        (("--dry_run", "--gpus", 2, "H1"), "gpus: expected one of GB200, B200, "),
        (("--dry_run", "--gpus", 0, "H100"), "gpus must be positive, got 0"),
        (("--dry_run", "--gpus", 3, "H100"), "batch_size: expected a multiple of 3, "),
        (("--dry_run", "--gpus", 2, "H100", "--mesh", 2, 2), "whose product is 2, "),
    ],
)
def test_gpus_that_cannot_be_planned_for_are_one_line(call, framework, flags, words):
    assert_one_line_error(call(f"gpt_{framework}.train", *flags, "--batch_size", 4), words)
