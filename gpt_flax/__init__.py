"""GPT-2 in pure-functional Flax: the twin of `gpt_torch`, file by file and function by function."""
