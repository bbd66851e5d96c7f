"""Ends a run of several processes if one of them hangs: the others would wait for it for ever."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from gpt_common.distributed import World

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a launcher or scheduler may start the run again
FOLDER = ".heartbeats"


class Watchdog:
    """Context that ends the process if `beat` is not called within `timeout` seconds.

    A thread writes a file in the run's folder while the process lives: so the error names those
    that do not. A single process has no watchdog.
    """

    def __init__(self, world: World, folder: Path, timeout: float) -> None:
        self._world, self._timeout = world, timeout
        self._folder = folder / FOLDER
        self._interval = min(5.0, timeout / 10)
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        self.beat()
        if self._world.size > 1:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            self._file(self._world.rank).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # of other processes' files
                self._folder.rmdir()

    def beat(self) -> None:
        """Note that the run goes on."""
        self._last = time.monotonic()

    def _file(self, rank: int) -> Path:
        return self._folder / f"{rank}"

    def _watch(self) -> None:
        self._touch()
        while not self._ended.wait(self._interval):
            self._touch()
            if time.monotonic() - self._last > self._timeout:
                self._end()

    def _touch(self) -> None:
        with contextlib.suppress(OSError):  # a full disk is no hung process
            self._folder.mkdir(exist_ok=True)
            self._file(self._world.rank).touch()

    def _end(self) -> None:
        rank, size = self._world.rank, self._world.size
        print(
            f"error: process {rank} of {size}: no step within {self._timeout:g} seconds"
            + "".join(f"; process {other} does not respond" for other in self._silent()),
            file=sys.stderr,
        )
        faulthandler.dump_traceback(all_threads=True)
        sys.stderr.flush()
        os._exit(EXIT_CODE)  # `sys.exit` would wait for the other processes

    def _silent(self) -> list[int]:
        """Return the other processes that have not written their files for three intervals."""
        since = time.time() - 3 * self._interval
        return [rank for rank in range(self._world.size) if self._written(rank) < since]

    def _written(self, rank: int) -> float:
        """Return when a process last wrote its file, 0 if it never did."""
        try:
            return self._file(rank).stat().st_mtime
        except OSError:
            return 0.0
