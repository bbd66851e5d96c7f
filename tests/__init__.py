"""Tests; `tests.faults` and `tests.parity.report` are commands."""

from gpt_common.startup import prepare

prepare("tests")
