"""A random order of n things that is never stored: any entry is computed from its position.

A Feistel network turns the numbers below a power of four into one another, one to one, whatever
its round function; positions that land at n or above are sent through again until they fall below
n. So an order of a billion windows costs no memory, resuming anywhere costs nothing, and it does
not depend on the version of a random number library.

Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 4 (cycle walking).
"""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
# Below this many bits a half has too few round functions to mix small domains well.
_MIN_HALF_BITS = 3
_MASK = (1 << 64) - 1


def permute(positions: NDArray[np.integer], size: int, *, seed: int, epoch: int) -> NDArray:
    """The entries at `positions` of the order of `range(size)` that (seed, epoch) stands for.

    Args:
        positions: any shape, each in [0, size).
        size: how many things are ordered.
        seed: any whole number; the order depends on its lowest 64 bits.
        epoch: which pass; each has an order of its own.

    Returns:
        int64, shape of `positions`; over all positions each of `range(size)` occurs once.

    Raises:
        ValueError: a position outside [0, size).
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
    """A one-to-one map of the numbers below 4**half_bits."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix_array(right ^ np.uint64(key)) & mask)
    return (left << bits) | right


def _mix(value: int) -> int:
    """SplitMix64's step: every bit of the result depends on every bit of `value`."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _mix_array(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`_mix` without its first addition, for arrays; products wrap modulo 2**64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
