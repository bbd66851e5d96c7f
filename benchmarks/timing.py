"""How long a call takes, in either framework: `synchronize` waits for a call's result."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Call = Callable[[], Any]
Synchronize = Callable[[Any], Any]


def seconds_per_call(
    call: Call, synchronize: Synchronize, min_run_time: float = 0.05, rounds: int = 5
) -> float:
    """Return the median over `rounds` of the seconds per call; a round takes `min_run_time`."""
    (seconds,) = interleaved_seconds([call], synchronize, min_run_time, rounds)
    return statistics.median(seconds)


def interleaved_seconds(
    calls: Sequence[Call], synchronize: Synchronize, min_run_time: float = 0.05, rounds: int = 5
) -> list[list[float]]:
    """Return for each of `calls` its seconds per call in every round, warm-up calls apart.

    In a round each call is repeated for `min_run_time` seconds, one after the other, so that a
    machine that slows down slows all of them.
    """
    counts = []
    for call in calls:
        synchronize(call())  # compiles
        counts.append(max(1, round(min_run_time / max(mean_seconds(call, synchronize, 1), 1e-6))))
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, count, found in zip(calls, counts, seconds, strict=True):
            found.append(mean_seconds(call, synchronize, count))
    return seconds


def mean_seconds(call: Call, synchronize: Synchronize, count: int) -> float:
    """Return the seconds per call of `count` calls.

    Only the last one is synchronized, so that a GPU's queue stays filled.
    """
    started = time.perf_counter()
    for _ in range(count):
        result = call()
    synchronize(result)
    return (time.perf_counter() - started) / count
