"""GPT-2 in pure-functional Flax: the twin of `gpt_torch`, file by file and function by function."""

from gpt_common.startup import prepare

prepare("gpt_flax", "jax", "flax", "optax")
