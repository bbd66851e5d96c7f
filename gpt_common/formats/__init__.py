"""Checkpoint formats: a module with `detect`, `read` and `write` each; `registry` lists them."""
