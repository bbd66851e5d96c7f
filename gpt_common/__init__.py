"""What the twins share: configuration, tokens, schedules, checkpoints and their formats."""

__version__ = "0.1.0"
