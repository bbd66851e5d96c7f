"""Converters of GPT-2 checkpoints, from any format to any other: `python -m convert`."""

from gpt_common.startup import prepare

prepare("convert")
