"""What scores subtract, see `perdure.pipeline.recipe.selection.SCORES`: numbers of the reference, smoothed, or made."""

from collections.abc import Iterable

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import REF_MAX_UNITS, REF_MISSING, REF_NATS_PER_UNIT, Shard
from perdure.pipeline.plan.order import splitmix64
from perdure.pipeline.recipe import Selection


def smoothed(units: np.ndarray, width: int) -> np.ndarray:
    """Averages over the tokens around, `width` to either side, as many as there are.

    Args:
        units: [num_tokens] of one document, in milli-nats; `REF_MISSING` counts nowhere, and stays.
        width: Neighbours to either side.

    Returns:
        int32 [num_tokens], rounded down.
    """
    known = units != REF_MISSING
    sums = np.cumsum(np.append(0, np.where(known, units, 0)), dtype=np.int64)
    counts = np.cumsum(np.append(0, known))
    places = np.arange(len(units))
    low, high = np.maximum(places - width, 0), np.minimum(places + width + 1, len(units))
    means = (sums[high] - sums[low]) // np.maximum(counts[high] - counts[low], 1)
    return np.where(known, means, REF_MISSING).astype(np.int32)


def made_reference(selection: Selection, seed: int, indices: Iterable[int], seq_length: int) -> np.ndarray:
    """What a score without sidecars subtracts.

    Args:
        selection: With the score `random` or `highest_loss`.
        seed: Decides what is random.
        indices: Global indices of samples; with the place in the sample, all that the numbers depend on besides.
        seq_length: Labels per sample.

    Returns:
        int32 [samples, seq_length]: 23 random bits (above `REF_MISSING`, which would mean that there is no number), or 0.
    """
    places: np.ndarray = np.array([*indices], np.uint64)[:, None] * np.uint64(seq_length)
    places = places + np.arange(seq_length, dtype=np.uint64)
    if selection.score == "random":
        return (splitmix64(seed, places) >> np.uint64(41)).astype(np.int32) + (REF_MISSING + 1)
    return np.zeros(places.shape, np.int32)


def require_known(units: np.ndarray, labels: np.ndarray, shard: Shard, start: int) -> None:
    """Refuses a document of whose labels the reference does not tell all losses.

    Args:
        units: int32 [tokens], losses in milli-nats of some of its tokens.
        labels: bool [tokens], which of them count.
        shard: Where it is.
        start: Where it begins there, in tokens.

    Raises:
        PerdureError: If a loss that counts is missing, or was clipped.
    """
    if not (wrong := int(((units >= REF_MAX_UNITS) & labels).sum())):
        return
    number = int(np.searchsorted(shard.pointers, start * shard.values.itemsize, side="right")) - 1
    raise PerdureError(
        f"{getattr(shard.values, 'filename', 'shard')}: document {number:,} has {wrong:,} labels to which the reference gives "
        f"no loss, or one of more than {REF_MAX_UNITS * REF_NATS_PER_UNIT:.1f} nats, so that its likelihood is not known; "
        f"leave it out of the source, or take another reference"
    )
