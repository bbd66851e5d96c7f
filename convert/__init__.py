"""GPT-2 checkpoints from every format to every other: `python -m convert SOURCE DESTINATION`."""

from gpt_common.startup import prepare

prepare("convert")
