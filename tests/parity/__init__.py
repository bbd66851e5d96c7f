from gpt_common.startup import prepare

prepare("tests.parity", "torch", "jax", "flax", "optax")
