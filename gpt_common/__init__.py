"""What the twins share: configuration, tokens, schedules, checkpoints and their formats."""
