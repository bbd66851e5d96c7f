"""Uniform samples that do not depend on framework, device or batch: both twins use them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def uniforms(
    seed: int, samples: Sequence[int], num_positions: int, starts: Sequence[int] | None = None
) -> npt.NDArray[np.float64]:
    """Return uniform samples in [0, 1), float64, `(len(samples), num_positions)`.

    Row `r` is for the positions from `starts[r]` (by default 0) of the continuation with index
    `samples[r]`. Each number depends only on the seed, that index and the position, by the
    counter-based generator Philox (Salmon et al. 2011).
    """
    starts = [0] * len(samples) if starts is None else starts
    rows = zip(samples, starts, strict=True)
    return np.stack([_row(seed, sample, start, num_positions) for sample, start in rows])


def _row(seed: int, sample: int, start: int, num_positions: int) -> npt.NDArray[np.float64]:
    philox = np.random.Philox(np.random.SeedSequence([seed, sample]))
    philox.advance(start // 4)  # one counter yields four numbers
    return np.random.Generator(philox).random(start % 4 + num_positions)[start % 4 :]
