"""What the twins share: configuration, tokens, schedules and checkpoints. Neither torch nor jax."""
