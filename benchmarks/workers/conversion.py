"""The worker of benchmarks.convert: `python -m benchmarks.workers.conversion`."""

import time
from pathlib import Path

from rich.console import Console

from benchmarks.spec import SEED
from benchmarks.workers.session import peak_rss, serve
from convert.__main__ import ConvertConfig, convert
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import GPTConfig
from gpt_common.formats.registry import FORMATS
from gpt_common.initialization import initialize_weights


def make(path: str, model: dict) -> int:
    """Write a Hugging Face folder of random weights; return their size in bytes."""
    config = GPTConfig(**model)
    weights = initialize_weights(config, SEED)
    write = FORMATS["huggingface"].write
    assert write is not None
    write(Path(path), Checkpoint(config, weights))
    return sum(array.nbytes for array in weights.values())


def run(source: str, destination: str, to: str) -> dict[str, float]:
    """Convert as the command does; return the seconds and the peak memory in bytes."""
    started = time.perf_counter()
    convert(ConvertConfig(source, destination, to=to), Console(stderr=True))
    return {"seconds": time.perf_counter() - started, "peak_memory": peak_rss()}


if __name__ == "__main__":
    serve({"make": make, "run": run})
