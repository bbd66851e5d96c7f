"""Measurements and figures. Each module's docstring opens with the command that runs it."""

from gpt_common.startup import prepare

prepare("benchmarks")
