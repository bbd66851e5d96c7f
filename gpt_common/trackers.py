"""What a run logs, sent to TensorBoard, Weights & Biases and Trackio as well."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from gpt_common import cli
from gpt_common.config import OutputOptions, TrainConfig
from gpt_common.errors import reason

PROJECT = "gpt-twins"  # on the dashboards of Weights & Biases and Trackio
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}  # by flag

Values = Mapping[str, float | str]


class Tracker(Protocol):
    """Where values of a step are shown."""

    def log(self, step: int, values: Values) -> None:
        """Log numbers and texts by name."""

    def close(self) -> None:
        """Write what is not written yet."""


class TensorBoard:
    """Event files in the run's folder `tensorboard`, from which a resumed run drops later steps."""

    def __init__(self, config: TrainConfig, folder: Path, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        self.writer.add_text("options", json.dumps(config.as_dict(), indent=1), first_step)

    def log(self, step: int, values: Values) -> None:
        """Log numbers as scalars."""
        for name, value in values.items():
            add = self.writer.add_text if isinstance(value, str) else self.writer.add_scalar
            add(name, value, step)

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class WandB:
    """A run of Weights & Biases; each start of a resumed run is one, in the same group."""

    def __init__(self, config: TrainConfig, folder: Path, first_step: int) -> None:
        import wandb

        self.run = wandb.init(
            project=PROJECT,
            group=folder.name,
            dir=str(folder),
            config=config.as_dict(),
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, values: Values) -> None:
        """Log at a step."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until all is sent."""
        self.run.finish()


class Trackio:
    """A run of Trackio, which a resumed run continues."""

    def __init__(self, config: TrainConfig, folder: Path, first_step: int) -> None:
        import trackio

        self.trackio = trackio
        trackio.init(project=PROJECT, name=folder.name, config=config.as_dict(), resume="allow")

    def log(self, step: int, values: Values) -> None:
        """Log at a step."""
        self.trackio.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until all is stored."""
        self.trackio.finish()


TRACKERS: dict[str, Callable[[TrainConfig, Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def chosen(output: OutputOptions) -> list[str]:
    """Return the names of the trackers that the options ask for."""
    return [name for name in TRACKERS if getattr(output, name)]


def require_packages(output: OutputOptions) -> None:
    """Raise `ModuleNotFoundError` for a tracker whose package is not installed."""
    for name in chosen(output):
        if find_spec(PACKAGES[name]) is None:
            raise ModuleNotFoundError(f"no package {PACKAGES[name]}", name=PACKAGES[name])


class Trackers:
    """All trackers of a run. One that fails is dropped, with a note: it never ends the run."""

    def __init__(self, starts: Mapping[str, Callable[[], Tracker]] | None = None) -> None:
        self._starts = starts or {}
        self._started: dict[str, Tracker] = {}

    def start(self) -> None:
        """Start all."""
        for name, start in self._starts.items():
            with self._dropped_by_an_error(name):
                self._started[name] = start()

    def log(self, entry: Mapping[str, Any]) -> None:
        """Log an entry of `log.jsonl`, a list of texts as one, without what is null."""
        values = {
            name: "\n\n".join(value) if isinstance(value, list) else value
            for name, value in entry.items()
            if name != "step" and value is not None
        }
        for name, tracker in [*self._started.items()]:
            with self._dropped_by_an_error(name):
                tracker.log(entry["step"], values)

    def close(self) -> None:
        """Close all."""
        for name, tracker in [*self._started.items()]:
            with self._dropped_by_an_error(name):
                tracker.close()

    @contextlib.contextmanager
    def _dropped_by_an_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._started.pop(name, None)
            cli.print_notes([f"{name} gets nothing any more: {reason(error)}"])


def choose_trackers(config: TrainConfig, folder: Path, first_step: int) -> Trackers:
    """Return the trackers that the options ask for, not started yet."""
    names = chosen(config.output)
    return Trackers({name: partial(TRACKERS[name], config, folder, first_step) for name in names})
