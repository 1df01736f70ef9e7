"""Which documents a version's plan reads, so that no others need scores."""

from pathlib import Path

import numpy as np

from perdure.pipeline.plan.consumption import samples_consumed
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import is_replayed, members
from perdure.pipeline.plan.order import RANKED
from perdure.pipeline.plan.packing import PADDING
from perdure.pipeline.plan.permutation import epoch_key, mix
from perdure.pipeline.plan.plan import Plan, consumed_between, open_order
from perdure.pipeline.recipe import MixtureSource, Version

SAMPLES = 1 << 22
"""Samples that are looked at together."""


def documents_read(
    plan: Plan,
    directory: Path,
    source: str,
    number: int,
    moving: bool = False,
    until: int | None = None,
    for_cutoff: bool = False,
) -> np.ndarray:
    """The documents of a source of which a version's plan reads anything as new data.

    Args:
        plan: The version's plan.
        directory: Where it stands.
        source: The source, whose parts may be several places of the mixture.
        number: Its training documents.
        moving: Whether shares change while training: any sample of the version may then come from any place.
        until: Global index before which its samples end; default: all of them.
        for_cutoff: Whether it is text that counts: sources that are replayed by name too, but no document of which the
            separator alone is read, as the input before a sample's first label.

    Returns:
        bool [number], by number over all shards.
    """
    found = np.zeros(number, bool)
    samples_read = plan.num_samples if until is None else until - plan.first_sample
    counts = consumed_between(plan, plan.first_sample, samples_read)
    for key, entry in plan.sources.items():
        passed = is_replayed(key) and not (for_cutoff and entry["pool"] is None)
        if passed or source_of(entry["source"]) != source:
            continue
        documents, ends = open_order(directory, key)
        first = samples_consumed((plan, plan.first_sample), key)
        last = first + (samples_read if moving else counts[key])
        if last - first >= entry["samples_per_epoch"]:
            found[documents[documents != PADDING]] = True
            continue
        entries = np.zeros(
            len(ends) + 1, np.int32
        )  # +1 where a sample begins to read, -1 behind where it ends
        for begin in range(first, last, SAMPLES):
            samples = _samples(plan, key, np.arange(begin, min(begin + SAMPLES, last)))
            # Its first input is the last token before its labels.
            begins = np.maximum(samples * plan.seq_length - 1, 0)
            if for_cutoff or "packing" in entry:  # packed, it begins behind a separator of its own
                begins = samples * plan.seq_length
            stops = np.minimum((samples + 1) * plan.seq_length, int(ends[-1])) - 1
            entries += np.bincount(np.searchsorted(ends, begins, "right"), minlength=len(entries))
            entries -= np.bincount(np.searchsorted(ends, stops, "right") + 1, minlength=len(entries))
        numbers = documents[np.cumsum(entries[:-1]) > 0]
        found[numbers[numbers != PADDING]] = True
    return found


def _samples(plan: Plan, key: str, places: np.ndarray) -> np.ndarray:
    """Which samples of a stream are the ones at these places in the order in which it is read, as `plan.locate` says; int64."""
    entry = plan.sources[key]
    epochs, samples = np.divmod(places, entry["samples_per_epoch"])
    if entry["order"] == "shuffled":
        for epoch in np.unique(epochs).tolist():
            own = epochs == epoch
            samples[own] = permuted(
                samples[own], entry["samples_per_epoch"], epoch_key(plan.seed, key, epoch)
            )
    return samples


def permuted(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """Vectorised `permutation.permute`: the images of int64 [n] indices."""
    half = np.uint64(max(1, (size - 1).bit_length() + 1 >> 1))
    mask = np.uint64((1 << int(half)) - 1)
    found, left = indices.astype(np.uint64), np.arange(len(indices))
    while len(left):
        high, low = found[left] >> half, found[left] & mask
        for number in range(4):
            high, low = low, high ^ (mix(key + number, low) & mask)
        found[left] = high << half | low
        left = left[found[left] >= size]
    return found.astype(np.int64)


def is_judged(member: MixtureSource) -> bool:
    """Whether a place in a mixture orders or chooses documents by perplexity, so that all of them are scored."""
    return member.order in RANKED or member.lowest_perplexity is not None


def to_score(version: Version, table: list[dict], tokens: dict[str, int | None]) -> list[dict]:
    """The sources of which a version needs scores, and by which models.

    Args:
        version: The version.
        table: Its mixture, see `perdure.pipeline.checks.mixture_table`.
        tokens: Training tokens of each source, None where they are not known.

    Returns:
        By source and model: `source`, `model`, `of` (the source's tokens), and `tokens`, which it reads as new data, None if
        all are scored: perplexities are those of whole sources.
    """
    mixture = version.mixture
    found: dict[tuple[str, str | None], int | None] = {}
    if version.scored_by is not None:
        for row in table:
            if row["part"] == "new" and row["source"] not in version.unscored:
                read = version.tokens if mixture.reweight else row["tokens"]
                key = source_of(row["source"]), version.scored_by
                found[key] = (found.get(key) or 0) + read
    for domain, member in members(mixture).values():
        if is_judged(member):
            found[source_of(domain), mixture.perplexity_model] = None
    return [
        {
            "source": source,
            "model": model,
            "of": tokens[source],
            "tokens": None if read is None or read >= (tokens[source] or read + 1) else read,
        }
        for (source, model), read in found.items()
    ]
