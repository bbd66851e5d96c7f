"""Bundled data: GPT-2's merges and nine plays of Shakespeare. See README.md beside this file."""
