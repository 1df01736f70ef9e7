"""Pseudo-random permutations and keys: SplitMix64 and a Feistel network (docs/specification.md)."""

from functools import lru_cache
from typing import TypeVar

import numpy as np

from perdure.pipeline.core.hashes import hash_of

_MASK = (1 << 64) - 1
_Words = TypeVar("_Words", int, np.ndarray)


def permute(index: int, size: int, key: int) -> int:
    """The image of an index under a pseudo-random permutation of range(size).

    Four Feistel rounds over the next power of four, repeated until the result is below `size` (cycle walking).

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), method 2 and 3.
    """
    half = max(1, (size - 1).bit_length() + 1 >> 1)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_number in range(4):
            left, right = right, left ^ (mix(key + round_number, right) & mask)
        index = left << half | right
        if index < size:
            return index


def inverse(image: int, size: int, key: int) -> int:
    """The index that `permute` maps to an image: its rounds backwards, walking the same cycle the other way."""
    half = max(1, (size - 1).bit_length() + 1 >> 1)
    mask = (1 << half) - 1
    while True:
        left, right = image >> half, image & mask
        for round_number in reversed(range(4)):
            left, right = right ^ (mix(key + round_number, left) & mask), left
        image = left << half | right
        if image < size:
            return image


@lru_cache(maxsize=256)
def epoch_key(seed: int, key: str, epoch: int) -> int:
    """The key of the permutation of a stream's samples in one epoch."""
    return mix(mix(seed, hash_key(key)), epoch)


def hash_key(text: str) -> int:
    """The first 64 bits of a name's SHA-256."""
    return int(hash_of(text)[:16], 16)


def mix(a: int, b: _Words) -> _Words:
    """SplitMix64's finaliser over two 64-bit numbers, or over one and each of uint64 [n]."""
    x = b + (a * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03 & _MASK) & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31
