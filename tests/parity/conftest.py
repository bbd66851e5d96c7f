"""The `agree` fixture holds differences against limits, and pytest ends with a table of them."""

import dataclasses
import json
from collections import defaultdict

import pytest

from tests.parity.tolerances import Differences, Limits

PROPERTY = "parity"


@pytest.fixture
def odd_config(odd_config):
    """With two layers: the time that XLA takes to compile a pass grows with them."""
    return dataclasses.replace(odd_config, n_layer=2)


@pytest.fixture
def agree(record_property):
    """Assert that differences are within the limits, and keep the largest for the summary."""

    def agree(what: str, differences: Differences, limits: Limits) -> None:
        for quantity, named in differences.items():
            limit = getattr(limits, quantity)
            record_property(PROPERTY, json.dumps([what, quantity, max(named.values()), limit]))
            for name, difference in named.items():
                assert difference <= limit, f"{what}: {quantity}: {name}"  # NaN is not either

    return agree


def pytest_terminal_summary(terminalreporter):
    worst = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                if key == PROPERTY and report.when == "call":
                    what, quantity, difference, limit = json.loads(value)
                    row = (what, quantity, limit)
                    worst[row] = max(worst[row], difference)
    if worst:
        terminalreporter.section("largest relative differences")
    for (what, quantity, limit), difference in sorted(worst.items()):
        terminalreporter.line(f"{what:38} {quantity:13} {difference:8.1e}  tolerance {limit:.0e}")
