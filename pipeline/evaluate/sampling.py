"""Stratified equal-probability sampling of held-out documents, and of pieces of them, by hash.

A document longer than a twentieth of the budget is cut into equal pieces that are drawn on their own. In each stratum the
pieces lie on a circle in the order of their hashes, each as long as it has tokens; an arc of the same share of every circle
is taken, from a random place on: the pieces whose middles lie on it. So every piece is as likely as any other, strata have
their shares of the tokens to within a piece, and the plain mean over the sample's tokens is the estimate of the mean over all
held-out tokens (a ratio of two Horvitz-Thompson totals; Cochran 1977, chapters 6 and 9A). No place in a file, shard or layout
takes part.
"""

import numpy as np

from perdure.pipeline.plan.order import splitmix64

RULE = "pieces by hash, 1"
"""Name of the sampling rule; numbers under another rule are never compared with these."""
PIECES = 20
"""A piece has at most the budget over this many tokens."""


def draw(
    tokens: np.ndarray, hashes: np.ndarray, strata: np.ndarray, max_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws pieces of documents up to a budget, at least one.

    Args:
        tokens: int64 [documents], at least 1 each.
        hashes: uint64 [documents], of their texts.
        strata: int64 [documents], number of each one's stratum.
        max_tokens: The budget; larger ones take more of the same circles if the pieces are the same.

    Returns:
        The document of each piece, and where it begins and stops in it, int64 [pieces]; ordered by hash of the document, then
        by place in it. Pieces that touch are one.
    """
    counts = -(-tokens // max(1, max_tokens // PIECES))
    document = np.repeat(np.arange(len(tokens)), counts)
    number = np.arange(len(document)) - (np.cumsum(counts) - counts)[document]
    begin, stop = (place * tokens[document] // counts[document] for place in (number, number + 1))
    keys = splitmix64(0, hashes[document] ^ splitmix64(1, number))

    order = np.lexsort((keys, strata[document]))
    sizes = (stop - begin)[order]
    ends = np.cumsum(sizes)
    _, first, length = np.unique(strata[document][order], return_index=True, return_counts=True)
    before = (ends - sizes)[first]
    totals = np.append(before[1:], ends[-1]) - before
    starts = splitmix64(2, keys[order][first]) / 2.0**64
    middles = ends - sizes / 2 - np.repeat(before, length)
    places = (middles / np.repeat(totals, length) - np.repeat(starts, length)) % 1
    order = order[np.argsort(places, kind="stable")]
    fitting = np.searchsorted(np.cumsum((stop - begin)[order]), max_tokens, side="right")
    taken = order[: max(1, int(fitting))]

    taken = taken[
        np.lexsort((begin[taken], document[taken], tokens[document[taken]], hashes[document[taken]]))
    ]
    document, begin, stop = document[taken], begin[taken], stop[taken]
    touching = (document[1:] == document[:-1]) & (begin[1:] == stop[:-1])
    return (
        document[np.append(True, ~touching)],
        begin[np.append(True, ~touching)],
        stop[np.append(~touching, True)],
    )
