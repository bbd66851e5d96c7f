"""The simulation of failures, against the formula that it checks."""

import math
import statistics
from random import Random

import pytest

from benchmarks.failures import (
    FailuresConfig,
    daly_interval,
    expected_seconds,
    simulate,
    young_interval,
)
from tests.conftest import assert_one_line_error

CASES = {
    "rare failures": FailuresConfig(gpus=256, hours=100),
    "one in three hours": FailuresConfig(gpus=16_384, hours=48),
    "restarts that fail, too": FailuresConfig(gpus=16_384, hours=12, restart_seconds=9_000),
    "no time to restart": FailuresConfig(gpus=16_384, hours=24, restart_seconds=0),
    "too few checkpoints": FailuresConfig(gpus=16_384, hours=24, interval_seconds=10_000),
    "a shorter last interval": FailuresConfig(gpus=16_384, hours=2.5, interval_seconds=7_200),
}


@pytest.mark.parametrize("case", CASES)
def test_the_mean_is_the_formulas_within_its_error(case):
    config, random = CASES[case], Random(1)
    totals = [simulate(config, random).total for _ in range(1000)]
    error = statistics.stdev(totals) / math.sqrt(len(totals))
    assert 0 < error < 0.02 * statistics.fmean(totals)
    assert abs(statistics.fmean(totals) - expected_seconds(config)) < 4 * error


def test_a_run_is_the_sum_of_what_it_spends():
    config, random = CASES["restarts that fail, too"], Random(2)
    for _ in range(20):
        run = simulate(config, random)
        spent = run.checkpoints + run.recomputed + run.restarts
        assert run.total == pytest.approx(3600 * config.hours + spent)
        assert run.restarts <= run.failures * config.restart_seconds


def test_without_failures_only_checkpoints_take_time():
    config = FailuresConfig(hours=1, gpu_hours_per_failure=1e12, interval_seconds=600)
    run = simulate(config, Random(0))
    assert run == (3600 + 6 * 20, 6 * 20, 0, 0, 0)
    assert expected_seconds(config) == pytest.approx(run.total)


def test_dalys_interval_is_the_best():
    """A tenth more or less takes longer, of an exact number of intervals."""
    mean, checkpoint = 11_000, 60
    best = daly_interval(checkpoint, mean)
    assert best < young_interval(checkpoint, mean) == math.sqrt(2 * 60 * 11_000)

    def seconds(interval):
        return math.expm1((interval + checkpoint) / mean) / interval

    assert seconds(best) < min(seconds(0.9 * best), seconds(1.1 * best))
    assert daly_interval(3 * mean, mean) == mean


def test_the_same_seed_is_the_same_table(call):
    args = ("--gpus", 16_384, "--runs", 20, "--hours", 10)
    first, again, other = (
        call("benchmarks.failures", *args, "--seed", seed).stdout for seed in (0, 0, 1)
    )
    assert first == again != other
    assert "hours between failures" in first


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--gpus", 0), "gpus must be positive, got 0"),
        (("--hours", -1), "hours must be positive, got -1"),
        (("--restart_seconds", -1), "restart_seconds must not be negative, got -1"),
        (("--runs", 1), "expected two runs or more, got 1"),
    ],
)
def test_wrong_flags_are_one_line(call, flags, words):
    assert_one_line_error(call("benchmarks.failures", *flags), words)
