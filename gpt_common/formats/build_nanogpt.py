"""build-nanogpt's `model_*.pt`: a model and its configuration, a pickled `GPTConfig`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt_common.checkpoint import Checkpoint
from gpt_common.formats import karpathy, torch_files
from gpt_common.formats.base import Format, require_activation
from gpt_common.formats.torch_files import BuildNanoGPTConfig
from gpt_common.weights import with_zero_biases

NAME = "build-nanogpt"


def detect(path: Path) -> bool:
    """Whether a file is torch's and holds a model with build-nanogpt's configuration."""
    return isinstance(torch_files.peek(path).get("config"), BuildNanoGPTConfig)


def read(path: Path) -> Checkpoint:
    """Read a file."""
    content, source = torch_files.load(path), str(path)
    config = karpathy.read_shape(vars(content["config"]), "gelu_new", source)
    return Checkpoint(config, karpathy.read_weights(content.get("model"), config, source))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file that build-nanogpt's program loads."""
    require_activation(checkpoint.config, "gelu_new", NAME)
    weights = with_zero_biases(checkpoint.weights, checkpoint.config)
    config = BuildNanoGPTConfig()
    vars(config).update({f: getattr(checkpoint.config, f) for f in karpathy.SHAPE_FIELDS})
    content = {
        "model": karpathy.state_dict(weights),
        "config": config,
        "step": checkpoint.training.step if checkpoint.training else 0,
        "val_loss": None,
    }
    with pickled_as_gpt_config():
        karpathy.save(path, content)


@contextmanager
def pickled_as_gpt_config() -> Iterator[None]:
    """Make pickle write `BuildNanoGPTConfig` under the name that build-nanogpt loads."""
    main, own = sys.modules["__main__"], BuildNanoGPTConfig
    module, name = own.__module__, own.__qualname__
    before = getattr(main, "GPTConfig", None)
    own.__module__, own.__qualname__ = "__main__", "GPTConfig"
    main.GPTConfig = own  # type: ignore[attr-defined]
    try:
        yield
    finally:
        own.__module__, own.__qualname__ = module, name
        if before is None:
            del main.GPTConfig
        else:
            main.GPTConfig = before  # type: ignore[attr-defined]


FORMAT = Format(NAME, "build-nanogpt's model_*.pt", detect, read, write, needs_biases=True)
