"""The uniform numbers that make draws the same in both twins, whatever the batch and the device."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def uniforms(
    seed: int, samples: Sequence[int], num_positions: int, starts: Sequence[int] | None = None
) -> npt.NDArray[np.float64]:
    """Return uniform numbers in [0, 1), `(len(samples), num_positions)`.

    Row `r` is of the positions from `starts[r]` on, 0 where there are none. The number for position
    `t` decides which token sample number `samples[r]` of a prompt takes there. It depends on the
    seed, the sample's number and `t` alone, through the counter-based generator Philox (Salmon et
    al. 2011): not on what else is in the batch, nor on the framework.
    """
    starts = [0] * len(samples) if starts is None else starts
    rows = zip(samples, starts, strict=True)
    return np.stack([_row(seed, sample, start, num_positions) for sample, start in rows])


def _row(seed: int, sample: int, start: int, num_positions: int) -> npt.NDArray[np.float64]:
    philox = np.random.Philox(np.random.SeedSequence([seed, sample]))
    philox.advance(start // 4)  # each of its counters makes four numbers
    return np.random.Generator(philox).random(start % 4 + num_positions)[start % 4 :]
