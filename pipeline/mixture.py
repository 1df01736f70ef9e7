"""Which source the i-th sample comes from: a pure function of the shares and i.

Shares are whole numbers of samples per block of at most `MAX_BLOCK`; the block's pattern repeats. Within it, no
source is ever a whole sample away from its share, at any prefix (Tijdeman, "The chairman assignment problem",
Discrete Math. 32, 1980: deviation at most 1 - 1/(2m - 2) for m sources). Seeking is O(1), and nothing but the
index decides, so the number of ranks and workers cannot change the stream.
"""

from fractions import Fraction
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
    given = [0] * num_sources
    # In units of 1 / (length * slack): owed = share * i - given, all in whole numbers so that no rounding enters.
    slack = 2 * num_sources - 2
    for i in range(length):
        best, best_due = -1, Fraction(0)
        for source, count in enumerate(counts):
            owed = (count * (i + 1) - given[source] * length) * slack
            if owed < length:
                continue
            due = Fraction(length * slack * (given[source] + 1) - length, count)
            if best < 0 or due < best_due:
                best, best_due = source, due
        pattern[i] = best
        given[best] += 1
    return pattern
