"""A pseudorandom permutation that is not stored: each entry is computed from its position.

A Feistel network is a permutation of the numbers below a power of four for any round function.
Results that are not below n are permuted again until they are. A permutation of a billion windows
therefore takes no memory, training can resume at any position, and the order does not depend on the
version of a random number library.

Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 4 (cycle walking).
"""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
# With fewer bits per half, there are too few different round functions to mix small domains well.
_MIN_HALF_BITS = 3
_MASK = (1 << 64) - 1


def permute(positions: NDArray[np.integer], size: int, *, seed: int, epoch: int) -> NDArray:
    """The entries at `positions` of the permutation of `range(size)` given by (seed, epoch).

    Args:
        positions: any shape, each in [0, size).
        size: number of entries.
        seed: any integer; the permutation depends on its lowest 64 bits.
        epoch: index of the pass over the data; each epoch has a different permutation.

    Returns:
        int64 with the shape of `positions`; different positions have different entries.

    Raises:
        ValueError: a position is outside [0, size).
    """
    entries = np.asarray(positions, dtype=np.int64)
    if entries.size and (entries.min() < 0 or entries.max() >= size):
        raise ValueError(
            f"positions from {entries.min()} to {entries.max()} must lie in [0, {size})"
        )
    half_bits = max(_MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    keys = [_mix(_mix(_mix(seed & _MASK) ^ (epoch & _MASK)) ^ r) for r in range(_ROUNDS)]
    entries = _feistel(entries.astype(np.uint64), half_bits, keys)
    while (outside := entries >= size).any():
        entries[outside] = _feistel(entries[outside], half_bits, keys)
    return entries.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half_bits: int, keys: list[int]) -> NDArray[np.uint64]:
    """A permutation of the numbers below 4**half_bits."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix_array(right ^ np.uint64(key)) & mask)
    return (left << bits) | right


def _mix(value: int) -> int:
    """One step of SplitMix64: every bit of the result depends on every bit of `value`."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _mix_array(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`_mix` without its first addition, for arrays; products are modulo 2**64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
