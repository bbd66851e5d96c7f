"""GPT-2 in PyTorch: the twin of `gpt_flax`, file by file and function by function."""

from gpt_common.startup import prepare

prepare("gpt_torch", "torch")
