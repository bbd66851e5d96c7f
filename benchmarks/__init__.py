"""Benchmarks and their plots. Each command's docstring opens with the line that runs it."""

from gpt_common.startup import prepare

prepare("benchmarks")
