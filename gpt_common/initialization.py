"""GPT-2's random initialization in numpy, so that both twins start from the same bits."""

import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from gpt_common.config import GPTConfig
from gpt_common.weights import Array, LazyArray, LazyWeights, Weights, weight_shapes

INITIAL_STD = 0.02


def residual_std(config: GPTConfig) -> float:
    """Return the standard deviation of the projections into the residual stream.

    It is scaled by 1/sqrt(2 * n_layer), as there are `2 * n_layer` of them (Radford et al. 2019,
    section 2.3).
    """
    return INITIAL_STD / math.sqrt(2 * config.n_layer)


def lazy_initial_weights(config: GPTConfig, seed: int) -> LazyWeights:
    """Return initial weights, float32, of which each tensor is computed when it is read.

    Norms are 1 and 0, biases 0, the rest normal. Each tensor has its own random generator, seeded
    by `seed` and the tensor's name, so that tensors are independent of one another and of the order
    in which they are read.
    """

    def initialize(name: str, shape: tuple[int, ...]) -> Array:
        if name.endswith(".bias"):
            return np.zeros(shape, np.float32)
        if ".ln_" in name:
            return np.ones(shape, np.float32)
        std = residual_std(config) if name.endswith("c_proj.weight") else INITIAL_STD
        random = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
        values = random.standard_normal(shape, np.float32)
        values *= np.float32(std)
        return values

    return {
        name: LazyArray(shape, np.dtype(np.float32), partial(initialize, name, shape))
        for name, shape in weight_shapes(config).items()
    }


def initialize_weights(config: GPTConfig, seed: int) -> Weights:
    """Return all of `lazy_initial_weights`, computed in parallel."""
    lazy = lazy_initial_weights(config, seed)
    with ThreadPoolExecutor() as pool:  # numpy releases the GIL
        return dict(zip(lazy, pool.map(np.asarray, lazy.values()), strict=True))
