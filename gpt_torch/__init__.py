"""GPT-2 in PyTorch: the twin of `gpt_flax`, file by file and function by function."""
