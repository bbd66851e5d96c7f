"""Runs several trainings in one process, which saves the imports: `python -m tests.parallel.runs`.

The first argument is a twin, the second a JSON list of the arguments of each training. The variable
FAIL makes the first process run out of disk space in the first checkpoint.
"""

import errno
import importlib
import json
import os
import sys

import numpy as np

from gpt_common import checkpoint, cli
from gpt_common.resume import parse_train_config


def fail(path, tensors):
    np.asarray(next(iter(tensors.values())))  # which all processes read together
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def main() -> None:
    twin, runs = sys.argv[1], json.loads(sys.argv[2])
    if "FAIL" in os.environ:
        checkpoint.write_safetensors = fail
    train = importlib.import_module(f"gpt_{twin}.train")
    for args in runs:
        train.train(parse_train_config(f"gpt_{twin}.train", args))


if __name__ == "__main__":
    cli.run(main)
