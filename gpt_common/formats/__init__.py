"""Checkpoint formats, one module each: `detect`, `read` and `write`. `registry` lists them."""
