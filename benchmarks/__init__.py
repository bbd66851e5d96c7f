"""Measurements and figures. Each module's docstring opens with the command that runs it."""
