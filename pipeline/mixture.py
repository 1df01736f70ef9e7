"""Which source the i-th sample comes from: a pure function of the shares and i.

Shares are whole numbers of samples per block of at most `MAX_BLOCK`; the block's pattern repeats. Within it, no
source is ever a whole sample away from its share, at any prefix (Tijdeman, "The chairman assignment problem",
Discrete Math. 32, 1980: deviation at most 1 - 1/(2m - 2) for m sources). Seeking is O(1), and nothing but the
index decides, so the number of ranks and workers cannot change the stream.
"""

from fractions import Fraction
from heapq import heappop, heappush
from math import lcm

import numpy as np

from perdure.pipeline.recipe import Mixture

MAX_BLOCK = 65_536
"""Longest pattern; shares that are no multiple of 1 / 65536 are rounded to one."""


def mixture_shares(mixture: Mixture) -> dict[str, Fraction]:
    """Share of all samples per source, replay included; a source in both parts counts twice, as `replay/<name>`.

    Weights are read as the decimals they are written as, so .1 is one tenth exactly.
    """
    replay_share = Fraction(str(mixture.replay.share)) if mixture.replay else Fraction(0)
    parts = [
        (source_key(name, replayed=False), source, 1 - replay_share, mixture.sources)
        for name, source in mixture.sources.items()
    ]
    if mixture.replay:
        parts += [
            (source_key(name, replayed=True), source, replay_share, mixture.replay.sources)
            for name, source in mixture.replay.sources.items()
        ]
    return {
        key: part
        * Fraction(str(source.weight))
        / sum(Fraction(str(sibling.weight)) for sibling in siblings.values())
        for key, source, part, siblings in parts
    }


def source_key(name: str, replayed: bool) -> str:
    """Name of a source's place in the mixture: `replay/<name>` if replayed."""
    return f"replay/{name}" if replayed else name


def is_replayed(key: str) -> bool:
    """Whether a place in the mixture is replay."""
    return key.startswith("replay/")


def block_counts(shares: list[Fraction]) -> list[int]:
    """Samples per block for each share (shares sum to 1; counts sum to the block length).

    Exact if the shares' common denominator is at most `MAX_BLOCK`; else rounded by largest remainder, at least 1
    each, so that a tiny share still occurs.
    """
    assert sum(shares) == 1
    length = lcm(*(share.denominator for share in shares))
    if length <= MAX_BLOCK:
        return [int(share * length) for share in shares]
    counts = [max(1, int(share * MAX_BLOCK)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i] * MAX_BLOCK)
    for i in range(MAX_BLOCK - sum(counts)):
        counts[by_remainder[i]] += 1
    for _ in range(sum(counts) - MAX_BLOCK):  # many tiny shares were rounded up: the largest gives
        counts[counts.index(max(counts))] -= 1
    return counts


def block_pattern(counts: list[int]) -> np.ndarray:
    """The block: int32 [sum(counts)], the source of each position.

    Tijdeman's rule: among the sources that are owed enough, the one whose next sample is due first.
    """
    length, num_sources = sum(counts), len(counts)
    pattern = np.zeros(length, np.int32)
    if num_sources == 1:
        return pattern
    slack = 2 * num_sources - 2
    # A source's n-th sample waits until it is owed 1 / slack of one; of those that wait no more, the first due goes.
    # All in whole numbers and fractions, so that no rounding enters.
    released: list[list[tuple[Fraction, int, int]]] = [[] for _ in range(length)]

    def queue(source: int, number: int, earliest: int) -> None:
        release = -(-(number * slack + 1) * length // (counts[source] * slack)) - 1
        due = Fraction(((number + 1) * slack - 1) * length, counts[source])
        released[max(release, earliest)].append((due, source, number))

    for source in range(num_sources):
        queue(source, 0, 0)
    waiting: list[tuple[Fraction, int, int]] = []
    for position in range(length):
        for sample in released[position]:
            heappush(waiting, sample)
        _, source, number = heappop(waiting)
        pattern[position] = source
        if number + 1 < counts[source]:
            queue(source, number + 1, position + 1)
    return pattern
