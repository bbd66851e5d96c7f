"""Starts the processes of a run, as torchrun does, without what it prints and waits for."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt_common.metrics import read_log

SECONDS = 600  # that nothing here takes


class Launched:
    """Processes that run one command together; as a context manager, none outlives the block."""

    def __init__(self, size: int, module: str, *args: object, **environ: str) -> None:
        port = free_port()
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, *map(str, args)],
                env=os.environ | variables(rank, size, port) | environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def codes(self) -> list[int]:
        """The exit codes, after all have ended."""
        outputs = [process.communicate(timeout=SECONDS) for process in self.processes]
        self.outputs = [without_gloo(out) for out, _ in outputs]
        self.errors = [without_gloo(err) for _, err in outputs]
        return [process.returncode for process in self.processes]

    def wait_for_step(self, folder: Path, step: int) -> None:
        """Wait until the log has a step, or fail if a process ends before."""
        log, end = folder / "log.jsonl", time.monotonic() + SECONDS
        while not (log.exists() and any(e["step"] >= step for e in read_log(log))):
            ended = [p.communicate()[1] for p in self.processes if p.poll() is not None]
            assert not ended, ended
            assert time.monotonic() < end
            time.sleep(0.05)


@contextmanager
def torchrun(size: int, restarts: int, *args: object, **environ: str) -> Iterator[subprocess.Popen]:
    """Yield torchrun, which starts processes of a module, all anew when one of them fails."""
    options = ("--standalone", "--nproc-per-node", size, "--max-restarts", restarts, "-m")
    # Its restarts may reach a store that is gone, else.
    environ |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *map(str, (*options, *args))],
        env=os.environ | environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()  # `kill` would leave the processes that it has started
        process.wait()


def without_gloo(text: str) -> str:
    """Return a text without the lines that jaxlib's Gloo prints for each connection."""
    return "".join(line for line in text.splitlines(True) if "[Gloo]" not in line)


def variables(rank: int, size: int, port: int) -> dict[str, str]:
    """Torchrun's variables of a process; one thread each, as there are few cores."""
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    names = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    return {name: str(value) for name, value in (numbers | names).items()}


def free_port() -> int:
    """A port that is free, as is the next one, where jax's coordinator listens."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("localhost", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("localhost", port + 1))
            except (OSError, OverflowError):
                continue
            return port
