"""What an implementation is to run: plain data, sent to its worker process as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpt_common.config import Device, GPTConfig, Preset, RuntimeOptions
from gpt_common.data import BatchLoader
from gpt_common.errors import InputError
from gpt_common.token_files import open_tokens

Dtype = Literal["float32", "tf32", "bfloat16", "float64"]
SEED = 1337


@dataclass(frozen=True)
class Spec:
    """A model and how it is computed. `settings` are specific to an implementation."""

    model: GPTConfig
    tokens: str
    device: Device = "auto"
    dtype: Dtype = "float32"
    batch_size: int = 4
    seq_len: int = 256
    compile: bool = False
    fast_ops: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Spec:
        """Return the spec that `as_dict` returned."""
        return cls(**fields | {"model": GPTConfig(**fields["model"])})

    def loader(self) -> BatchLoader:
        """Return a loader of the batches, which are the same for every implementation."""
        return BatchLoader(open_tokens(Path(self.tokens)), self.batch_size, self.seq_len)

    @property
    def tokens_per_step(self) -> int:
        """The number of tokens in a training step."""
        return self.batch_size * self.seq_len


def check_length(preset: Preset, config: GPTConfig, length: int) -> None:
    """Raise `InputError` if `length` exceeds the model's `block_size`."""
    if length > config.block_size:
        raise InputError(
            f"expected at most the {config.block_size} tokens of {preset}'s block_size, "
            f"got {length}"
        )


def runtime_options(spec: Spec) -> RuntimeOptions:
    """Return a twin's runtime options, of the fields that it has."""
    known = {f.name for f in dataclasses.fields(RuntimeOptions)}
    wanted = {name: getattr(spec, name) for name in ("device", "dtype", "compile", "fast_ops")}
    return RuntimeOptions(**{name: value for name, value in wanted.items() if name in known})
