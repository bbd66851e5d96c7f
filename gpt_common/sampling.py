"""The uniform numbers that make draws the same in both twins, whatever the batch and the device."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def uniforms(seed: int, samples: Sequence[int], num_positions: int) -> npt.NDArray[np.float64]:
    """Return uniform numbers in [0, 1), `(len(samples), num_positions)`.

    Row `r`, column `t` decides which token sample number `samples[r]` of a prompt takes at position
    `t`. It depends on the seed, the number and `t` alone, through the counter-based generator
    Philox (Salmon et al. 2011): not on what else is in the batch, nor on the framework.
    """
    rows = {
        sample: np.random.Generator(
            np.random.Philox(np.random.SeedSequence([seed, sample]))
        ).random(num_positions)
        for sample in set(samples)
    }
    return np.stack([rows[sample] for sample in samples])
