"""What failures and checkpoints cost a run on many GPUs: a simulation, and its formula.

python -m benchmarks.failures --gpus 256 --hours 8.5   # needs no GPU
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from gpt_common import cli
from gpt_common.errors import InputError, require_not_negative, require_positive

# Llama 3's: 419 unexpected interruptions in 54 days of 16,384 GPUs (arXiv:2407.21783, 3.3.4).
GPU_HOURS_PER_FAILURE = 54 * 24 * 16_384 / 419


@dataclass(frozen=True)
class FailuresConfig:
    """Simulate failures, restarts and checkpoints of a run, and compare them with the formula.

    A failure of any GPU ends the run, which restarts from its last checkpoint. Failures come at
    random (a Poisson process), also during a restart or while a checkpoint is written.
    """

    gpus: int = 256
    """GPUs of the run."""
    hours: float = 8.5
    """Hours of training, without checkpoints and failures: those of --dry_run."""
    checkpoint_seconds: float = 20.0
    """Seconds in which training waits for a checkpoint."""
    restart_seconds: float = 300.0
    """Seconds from a failure until training goes on."""
    gpu_hours_per_failure: float = GPU_HOURS_PER_FAILURE
    """Mean GPU hours between failures; by default those of Llama 3."""
    interval_seconds: float = 0.0
    """Seconds of training between checkpoints; 0 takes Daly's optimum."""
    runs: int = 1000
    """Runs to simulate."""
    seed: int = 0
    """Random seed."""

    def __post_init__(self) -> None:
        for name in ("gpus", "hours", "checkpoint_seconds", "gpu_hours_per_failure"):
            require_positive(name, getattr(self, name))
        require_not_negative("restart_seconds", self.restart_seconds)
        require_not_negative("interval_seconds", self.interval_seconds)
        if self.runs < 2:
            raise InputError(f"expected two runs or more, got {self.runs}")

    @property
    def mean_seconds(self) -> float:
        """The mean seconds between failures of the run."""
        return 3600 * self.gpu_hours_per_failure / self.gpus

    @property
    def interval(self) -> float:
        """The seconds of training between checkpoints, at most those of the run."""
        chosen = self.interval_seconds or daly_interval(self.checkpoint_seconds, self.mean_seconds)
        return min(chosen, 3600 * self.hours)


def young_interval(checkpoint: float, mean: float) -> float:
    """Return the best interval to first order (Young 1974, doi:10.1145/361147.361115).

    `checkpoint` is the time to write one, `mean` that between failures.
    """
    return math.sqrt(2 * checkpoint * mean)


def daly_interval(checkpoint: float, mean: float) -> float:
    """Return the best interval to higher order (Daly 2006, doi:10.1016/j.future.2004.11.016)."""
    if checkpoint >= 2 * mean:
        return mean
    ratio = math.sqrt(checkpoint / (2 * mean))
    correction = 1 + ratio / 3 + ratio**2 / 9
    return young_interval(checkpoint, mean) * correction - checkpoint


def expected_seconds(config: FailuresConfig) -> float:
    """Return the mean seconds of a run, for failures at any time (Daly 2006).

    That is M exp(R / M) (exp((t + d) / M) - 1) for each interval t and its checkpoint d, where M
    is the mean time between failures and R that of a restart. The last interval may be shorter.
    """
    mean, total = config.mean_seconds, 3600 * config.hours
    whole, rest = divmod(total, config.interval)

    def seconds(interval: float) -> float:
        stretch = math.expm1((interval + config.checkpoint_seconds) / mean)
        return mean * math.exp(config.restart_seconds / mean) * stretch

    return whole * seconds(config.interval) + (seconds(rest) if rest else 0.0)


class Outcome(NamedTuple):
    """The seconds of a simulated run, and what the seconds beside training went to."""

    total: float
    checkpoints: float
    recomputed: float
    restarts: float
    failures: int


def simulate(config: FailuresConfig, random: Random) -> Outcome:
    """Return one run, event by event."""
    rate, goal = 1 / config.mean_seconds, 3600 * config.hours
    clock = trained = checkpoints = recomputed = restarts = 0.0
    failures, failure = 0, random.expovariate(rate)
    while trained < goal:
        work = min(config.interval, goal - trained)
        end = clock + work + config.checkpoint_seconds
        if end <= failure:
            clock, trained = end, trained + work
            checkpoints += config.checkpoint_seconds
            continue
        recomputed += failure - clock
        clock = ready = failure
        while failure <= ready:  # another one ends a restart, too
            failures += 1
            ready = failure + config.restart_seconds
            failure += random.expovariate(rate)
        restarts += ready - clock
        clock = ready
    return Outcome(clock, checkpoints, recomputed, restarts, failures)


def table(config: FailuresConfig, outcomes: list[Outcome]) -> Table:
    """Return the means of the simulated runs, and the formula's."""
    goal, expected = 3600 * config.hours, expected_seconds(config)
    totals, checkpoints, recomputed, restarts, failures = zip(*outcomes, strict=True)
    mean = statistics.fmean(totals)
    error = statistics.stdev(totals) / math.sqrt(len(totals))
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("hours of a run")
    shown.add_column("simulated", justify="right")
    shown.add_column("formula", justify="right")
    for name, seconds, formula in (
        ("training", goal, f"{goal / 3600:,.2f}"),
        ("checkpoints", statistics.fmean(checkpoints), ""),
        ("trained again", statistics.fmean(recomputed), ""),
        ("restarts", statistics.fmean(restarts), ""),
        ("all", mean, f"{expected / 3600:,.2f}"),
        ("standard error", error, ""),
    ):
        shown.add_row(name, f"{seconds / 3600:,.2f}", formula)
    shown.add_row("goodput", f"{goal / mean:.2%}", f"{goal / expected:.2%}")
    shown.add_row("failures", f"{statistics.fmean(failures):.2f}", "")
    shown.add_row("hours between failures", "", f"{config.mean_seconds / 3600:,.1f}")
    shown.add_row("minutes between checkpoints", "", f"{config.interval / 60:,.1f}")
    return shown


def main() -> None:
    """Run the command line."""
    config = cli.parse(FailuresConfig, "benchmarks.failures")
    random = Random(config.seed)
    outcomes = [simulate(config, random) for _ in range(config.runs)]
    Console(width=80, highlight=False).print(table(config, outcomes))


if __name__ == "__main__":
    cli.run(main)
