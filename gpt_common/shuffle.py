"""Shuffling without an index in memory: a pseudorandom permutation that is computed."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]

MASK = (1 << 64) - 1
ROUNDS = 8  # 4 are enough for large sizes (Luby and Rackoff, 1988), but not for a few elements


def shuffled(indices: Sequence[int], size: int, seed: int) -> list[int]:
    """Return the elements at `indices` of endless epochs over `range(size)`, each shuffled anew.

    Epoch `e` has the indices from `e * size` on. Each element depends on its index alone.
    """
    epochs, places = zip(*(divmod(index, size) for index in indices), strict=True)
    keys = _mix(_uint64(epochs) + _mix(_uint64([seed])))
    return permute(_uint64(places), size, keys).tolist()


def permute(places: UInt64Array, size: int, keys: UInt64Array) -> UInt64Array:
    """Return where the permutation of `range(size)` of each key puts each place, `(N,)` uint64.

    A Feistel network permutes the numbers of 2h bits, of which `range(size)` is a part, at least a
    quarter. Until a place is in that part it is permuted again (cycle walking).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    places = _feistel(places, half, keys)
    while (outside := places >= size).any():
        places = np.where(outside, _feistel(places, half, keys), places)
    return places


def _feistel(numbers: UInt64Array, half: int, keys: UInt64Array) -> UInt64Array:
    """Return a permutation of the numbers of `2 * half` bits for each key."""
    bits, low_bits = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = numbers >> bits, numbers & low_bits
    for number in range(ROUNDS):
        round_keys = _mix(keys + np.uint64(number))
        left, right = right, left ^ (_mix(right ^ round_keys) & low_bits)
    return left << bits | right


def _mix(x: UInt64Array) -> UInt64Array:
    """Return the outputs of SplitMix64 for the states `x` (Steele, Lea and Flood, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uint64(numbers: Sequence[int]) -> UInt64Array:
    return np.array([number & MASK for number in numbers], np.uint64)
