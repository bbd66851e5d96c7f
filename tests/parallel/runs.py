"""Runs several trainings in one process, which saves the imports: `python -m tests.parallel.runs`.

The first argument is a twin, the second a JSON list of the arguments of each training. A variable
of the environment asks for one of `HOOKS`; its value is the hook's argument.
"""

import atexit
import errno
import importlib
import json
import os
import signal
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from gpt_common import checkpoint, cli, run
from gpt_common.resume import parse_train_config

RANK = int(os.environ.get("RANK", "0"))


def fill_the_disk(_):
    """The first process has no room for the first checkpoint, of which all have read an array."""

    def fail(path, tensors):
        np.asarray(next(iter(tensors.values())))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    checkpoint.write_safetensors = fail


def signal_in_save(ranks):
    """A rank in `ranks` gets SIGTERM in its first save, as often as it is there."""
    count, values = ranks.split().count(str(RANK)), run.finite_values

    def finite_values(*args):
        nonlocal count
        arrays = values(*args)
        yield from islice(arrays, 3)
        while count:
            count -= 1
            os.kill(os.getpid(), signal.SIGTERM)
        yield from arrays

    run.finite_values = finite_values


def write_pid(folder):
    """The file that a rank names has the number of its process."""
    Path(folder, str(RANK)).write_text(str(os.getpid()))


def report_gloo(_):
    """An error if Gloo's threads go on at the end, when they may abort the process."""

    def report():
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        if any(name.startswith("pt_gloo_runloop") for name in names):
            print("error: Gloo's threads go on", file=sys.stderr)

    atexit.register(report)


HOOKS = {
    "FILL_DISK": fill_the_disk,
    "SIGNAL_IN_SAVE": signal_in_save,
    "PIDS": write_pid,
    "REPORT_GLOO": report_gloo,
}


class Recorder:
    """Keeps the rows, on this process's devices, of all batches given to `train_step`."""

    def __init__(self, train):
        self.rows = []
        if hasattr(train, "join_rows"):  # Flax, where a function compiles the step
            compile_train_step = train.compile_train_step
            train.compile_train_step = lambda *args: self.record(compile_train_step(*args))
        else:
            train.train_step = self.record(train.train_step)

    def record(self, step):
        def recorded(state, x, y, *args, **kwargs):
            self.rows.append([own_rows(x), own_rows(y)])
            return step(state, x, y, *args, **kwargs)

        return recorded

    def save(self, path):
        """Write what was given since the last call: x and y of each step, `(A, rows, T)`."""
        np.save(path, np.array(self.rows))
        self.rows.clear()


def own_rows(batches):
    shards = getattr(batches, "addressable_shards", None)
    if shards is None:
        return np.asarray(batches)
    by_row = sorted(shards, key=lambda shard: shard.index[1].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in by_row], axis=1)


def main() -> None:
    twin, runs = sys.argv[1], json.loads(sys.argv[2])
    for name in HOOKS.keys() & os.environ.keys():
        HOOKS[name](os.environ[name])
    train = importlib.import_module(f"gpt_{twin}.train")
    recorder = Recorder(train) if "RECORD" in os.environ else None
    for args in runs:
        config = parse_train_config(f"gpt_{twin}.train", args)
        train.train(config)
        if recorder:
            name = Path(config.output.out_dir).name
            recorder.save(Path(os.environ["RECORD"], f"{name}-{RANK}.npy"))


if __name__ == "__main__":
    cli.run(main)
