"""How long a call takes, in whichever framework: `wait` is what waits for its result."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds_per_call(
    call: Callable[[], Any], wait: Callable[[Any], Any], at_least: float = 0.05, rounds: int = 5
) -> float:
    """Return the median over rounds of `at_least` seconds, of as many calls as that takes.

    Within a round nothing is waited for but the last call, so that a GPU's queue stays filled.
    """
    wait(call())  # what is slow the first time

    def seconds(calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            result = call()
        wait(result)
        return (time.perf_counter() - started) / calls

    calls = max(1, round(at_least / max(seconds(1), 1e-6)))
    return statistics.median(seconds(calls) for _ in range(rounds))
