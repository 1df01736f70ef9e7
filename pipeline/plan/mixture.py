"""Which source the i-th sample comes from: a pure function of the shares and i.

Shares are whole numbers of samples per block of at most `MAX_BLOCK`; the block's pattern repeats. Within it, no
source is ever a whole sample away from its share, at any prefix (Tijdeman, "The chairman assignment problem",
Discrete Math. 32, 1980: deviation at most 1 - 1/(2m - 2) for m sources). Seeking is O(1), and nothing but the
index decides, so the number of ranks and workers cannot change the stream.
"""

from collections.abc import Collection
from fractions import Fraction
from heapq import heapify, heappop, heappush, heapreplace
from math import lcm
from operator import itemgetter

import numpy as np

from perdure.pipeline.recipe import Mixture, MixtureSource, Replay, Version

MAX_BLOCK = 65_536
"""Longest pattern; shares that are no multiple of 1 / 65536 are rounded to one."""

OPTIONAL = ("objective", "anchor", "adapter", "elastic_reset", "reptile")
"""Fields of a version that came later, and are None where they are not used."""


def mixture_shares(mixture: Mixture, part: int = 0, k: float = 1.0) -> dict[str, Fraction]:
    """Share of all samples per source, replay included; a source in both parts counts twice, as `replay/<name>`.

    Weights are read as the decimals they are written as, so .1 is one tenth exactly.

    Args:
        mixture: Its replayed sources are named (see `consumption.with_replay_pools` for `from_parents`).
        part: 0 before the first of `switches`, i after the i-th.
        k: Share of the new tokens that are trained on, see `trained_fraction`.
    """
    fresh, replayed_share = new_sources(mixture, part), read_share(mixture.replay, k)
    parts = [(False, 1 - replayed_share, fresh)]
    if mixture.replay:
        parts.append((True, replayed_share, mixture.replay.sources))
    found: dict[str, Fraction] = {}
    for replayed, share, siblings in parts:
        weights = {name: Fraction(str(source.weight)) for name, source in siblings.items()}
        unit = share / sum(weights.values()) if weights else share
        found |= {source_key(name, replayed): unit * weight for name, weight in weights.items()}
    return found


def trained_fraction(version: Version) -> float:
    """Share of the new tokens that a version trains on: k of its selection, 1 without one. Replay is trained on whole."""
    return version.selection.k if version.selection else 1.0


def read_share(replay: Replay | None, k: float) -> Fraction:
    """Share of all samples that are replayed.

    Where `replay.share` s is that of the tokens trained on, it is s k / (1 - s + s k): of 1 - that, k are selected, and
    replayed / (replayed + selected) is s.
    """
    if replay is None:
        return Fraction(0)
    share, kept = Fraction(str(replay.share)), Fraction(str(k))
    return share if replay.share_of == "read" else share * kept / (1 - share + share * kept)


def trained_share(replay: Replay | None, k: float) -> Fraction:
    """Share of the tokens trained on that are replayed."""
    read = read_share(replay, k)
    return read / (read + (1 - read) * Fraction(str(k)))


def new_sources(mixture: Mixture, part: int) -> dict[str, MixtureSource]:
    """The new sources before the first switch (`part` 0) or after the i-th."""
    return mixture.switches[part - 1].sources if part else mixture.sources


def plain_keys(mixture: Mixture, part: int = 0) -> list[str]:
    """Places whose documents are read without their prefixes, before the first of `switches` or after the i-th."""
    old = mixture.replay.sources if mixture.replay else {}
    return [
        source_key(name, replayed)
        for replayed, sources in ((False, new_sources(mixture, part)), (True, old))
        for name, source in sources.items()
        if not source.prefix
    ]


def members(mixture: Mixture) -> dict[str, tuple[str, MixtureSource]]:
    """All places in a mixture, those of later phases included: domain (`perdure.pipeline.plan.domains`) and settings by key."""
    fresh: dict[str, MixtureSource] = {}
    for part in range(len(mixture.switches) + 1):
        fresh = new_sources(mixture, part) | fresh
    old = mixture.replay.sources if mixture.replay else {}
    return {
        source_key(name, replayed): (name, source)
        for replayed, sources in ((False, fresh), (True, old))
        for name, source in sources.items()
    }


def order_of_sources(mixture: Mixture) -> list[str] | None:
    """The order of a mixture's `sources`, where it decides what is trained on when; else None.

    Shuffled by the seed, or followed by similarity from replay on, domains stand in the same order whatever theirs is here.
    """
    decides = mixture.domain_order == "given" or (
        mixture.domain_order == "similarity" and mixture.replay is None
    )
    return list(mixture.sources) if decides else None


def same_mixture(left: Version, right: Version) -> bool:
    """Whether the mixtures of two versions give the same samples: `max_repetition` decides none."""
    return _samples_of(left) == _samples_of(right)


def _samples_of(version: Version) -> tuple:
    mixture = version.mixture
    read = read_share(mixture.replay, trained_fraction(version))
    dumped = mixture.model_dump(exclude={"max_repetition": True, "replay": {"share", "share_of"}})
    return dumped, read, order_of_sources(mixture), version.objective


def without_idle(version: dict) -> dict:
    """A version dumped as JSON, without fields that have no effect at their values.

    So what identifies a version is what it was before there were such fields: `replay.share_of` where the share read is
    `share` (it is `read`, or all new tokens are trained on), `reweight.groups` where there are none, `OPTIONAL`, and the weight
    of a penalty that an adapter does not have.
    """
    mixture, selection = version["mixture"], version.get("selection")
    rule, replay = mixture.get("reweight"), mixture.get("replay")
    if rule and not rule.get("groups"):
        rule = {key: value for key, value in rule.items() if key != "groups"}
    if replay and not (replay.get("share_of") == "trained" and selection and selection["k"] < 1):
        replay = {key: value for key, value in replay.items() if key != "share_of"}
    used = {key: value for key, value in version.items() if key not in OPTIONAL or value is not None}
    if (adapter := used.get("adapter")) and not adapter.get("orthogonal_to"):
        used["adapter"] = {key: value for key, value in adapter.items() if not key.startswith("orthogonal_")}
    return used | {"mixture": mixture | {"reweight": rule, "replay": replay}}


def reweighted(
    ratios: dict[str, float],
    before: dict[str, float],
    after: dict[str, float],
    alpha: float,
    weights: dict[str, float],
    floor: float = 0.0,
    held: Collection[str] = (),
) -> dict[str, float]:
    """Shares after a measurement.

    Args:
        ratios: Share per topic, summing to 1.
        before: Perplexity per topic at the last measurement.
        after: Perplexity per topic now.
        alpha: Strength.
        weights: w_i by topic; 1 where a topic is not named.
        floor: Smallest share; what it takes is taken from the others in proportion.
        held: Topics that get the smallest share, whatever their perplexity. If they are all of `ratios`, none does: somebody
            has to give the samples.

    Returns:
        New shares, summing to 1: r_i f_i / sum(r f), f_i = 1 + alpha d_i w_i, d_i = (p_i - p_i') / max |p - p'|.

    Source:
        Llama-3-SynE (arXiv 2407.18743), section 3.2.
    """
    held = () if set(held) >= ratios.keys() else held
    change = {topic: after[topic] - before[topic] for topic in ratios}
    largest = max(map(abs, change.values()))
    if largest == 0:
        return _floored(ratios, floor, set(held)) if held else ratios
    raw = {
        topic: ratio * (1 + alpha * change[topic] / largest * weights.get(topic, 1.0))
        for topic, ratio in ratios.items()
    }
    return _floored({topic: value / sum(raw.values()) for topic, value in raw.items()}, floor, set(held))


def _floored(ratios: dict[str, float], floor: float, low: set[str]) -> dict[str, float]:
    while True:
        free = sum(ratio for topic, ratio in ratios.items() if topic not in low)
        if free == 0:  # those that are left had nothing: in proportion to what they had says nothing
            ratios = {topic: ratio if topic in low else 1.0 for topic, ratio in ratios.items()}
            continue
        scale = (1 - floor * len(low)) / free
        found = {topic for topic, ratio in ratios.items() if topic not in low and ratio * scale < floor}
        if not found:
            return {topic: floor if topic in low else ratio * scale for topic, ratio in ratios.items()}
        low |= found


def moving_groups(mixture: Mixture) -> list[list[str]]:
    """New sources among which `reweight` moves shares, each group with a fixed total; those of no group come last."""
    assert mixture.reweight is not None
    place = {source: number for number, source in enumerate(mixture.sources)}
    named = [set(group) for group in mixture.reweight.groups.values()]
    groups = [sorted(group & place.keys(), key=place.__getitem__) for group in named]
    grouped = set().union(*named)
    rest = [source for source in mixture.sources if source not in grouped]
    return [*groups, rest] if rest else groups


def rounded_shares(ratios: dict[str, float], parts: int) -> dict[str, Fraction]:
    """Shares that are multiples of 1 / `parts` and sum to 1, by largest remainder; none is 0."""
    counts = {topic: max(1, int(ratio * parts)) for topic, ratio in ratios.items()}
    by_remainder = sorted(ratios, key=lambda topic: counts[topic] - ratios[topic] * parts)
    for topic in by_remainder[: max(0, parts - sum(counts.values()))]:
        counts[topic] += 1
    left = _less(list(counts.values()), sum(counts.values()) - parts)
    return {topic: Fraction(count, parts) for topic, count in zip(counts, left)}


def _less(counts: list[int], number: int) -> list[int]:
    """Counts reduced by a number in total, one at a time from the largest; the first of equal ones is reduced first."""
    largest = [(-count, place) for place, count in enumerate(counts)]
    heapify(largest)
    for _ in range(number):
        count, place = largest[0]
        heapreplace(largest, (count + 1, place))
    return [-count for count, _ in sorted(largest, key=itemgetter(1))]


def domain_steps(mixture: Mixture, steps: int) -> dict[str, int]:
    """Steps that each new domain gets if they come one after another: whole, at least one, summing to `steps`."""
    whole = sum(Fraction(str(source.weight)) for source in mixture.sources.values())
    ratios = {name: float(Fraction(str(source.weight)) / whole) for name, source in mixture.sources.items()}
    return {name: int(share * steps) for name, share in rounded_shares(ratios, steps).items()}


def alone_shares(mixture: Mixture, domain: str, k: float) -> dict[str, Fraction]:
    """`mixture_shares` while one new domain stands alone, beside replay."""
    only = mixture.model_copy(update={"sources": {domain: mixture.sources[domain]}, "switches": ()})
    return mixture_shares(only, k=k)


def source_key(name: str, replayed: bool) -> str:
    """Name of a domain's place in the mixture: `replay/<name>` if replayed."""
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
    return _less(counts, sum(counts) - MAX_BLOCK)  # many tiny shares were rounded up: the largest gives


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
    # All in whole numbers. Times of two sources are equal or at least 1 / (product of their counts) >= 2^-32 apart, so
    # that 33 binary places keep their order, ties included.
    released: list[list[tuple[int, int, int]]] = [[] for _ in range(length)]

    def queue(source: int, number: int, earliest: int) -> None:
        release = -(-(number * slack + 1) * length // (counts[source] * slack)) - 1
        due = (((number + 1) * slack - 1) * length << 33) // counts[source]
        released[max(release, earliest)].append((due, source, number))

    for source in range(num_sources):
        queue(source, 0, 0)
    waiting: list[tuple[int, int, int]] = []
    for position in range(length):
        for sample in released[position]:
            heappush(waiting, sample)
        _, source, number = heappop(waiting)
        pattern[position] = source
        if number + 1 < counts[source]:
            queue(source, number + 1, position + 1)
    return pattern
