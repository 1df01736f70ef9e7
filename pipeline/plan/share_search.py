"""The search for the shares of a merge: a pure function of the losses that it is told."""

from collections.abc import Generator
from typing import NamedTuple

UNITS = 20
"""Shares are multiples of 1 / 20."""
UNIFORM = (0, 2, 4, 6, 8, 10)
"""Shares of the first version that are tried everywhere, in units."""
STEPS = (2, 1)
"""Steps of the descent, in units."""


class Candidate(NamedTuple):
    """Shares of the first of two versions.

    Attributes:
        share: Of all that is in no run of layers.
        parent_share: By run of layers; empty: `share` holds everywhere.
    """

    share: float
    parent_share: tuple[float, ...]


def search(blocks: int | None) -> Generator[Candidate, float, Candidate]:
    """Finds the shares of lowest loss: the best uniform one, then coordinate descent in smaller and smaller steps.

    Args:
        blocks: Runs of layers with a share of their own; None: one share for all.

    Yields:
        Candidates, each once. The loss of each is sent back; one that is not finite counts as the worst.

    Returns:
        The best one; of several, the one that was found first.
    """
    losses: dict[tuple[int, tuple[int, ...]], float] = {}

    def measured(outer: int, runs: tuple[int, ...]) -> Generator[Candidate, float, float]:
        if (outer, runs) not in losses:
            own = tuple(run / UNITS for run in runs) if blocks is not None else ()
            loss = yield Candidate(outer / UNITS, own)
            losses[outer, runs] = loss if abs(loss) < float("inf") else float("inf")
        return losses[outer, runs]

    def uniform(units: int) -> tuple[int, tuple[int, ...]]:
        return units, (units,) * (blocks or 0)

    best = uniform(UNIFORM[0])
    lowest = yield from measured(*best)
    for units in UNIFORM[1:]:
        loss = yield from measured(*uniform(units))
        if loss < lowest:
            best, lowest = uniform(units), loss
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for place in range(blocks or 1):
                outer, runs = best
                for moved in (-step, step):
                    units = (outer if blocks is None else runs[place]) + moved
                    if not 0 <= units <= UNITS:
                        continue
                    candidate = (
                        uniform(units)
                        if blocks is None
                        else (outer, (*runs[:place], units, *runs[place + 1 :]))
                    )
                    loss = yield from measured(*candidate)
                    if loss < lowest:
                        best, lowest, improved = candidate, loss, True
    outer, runs = best
    return Candidate(outer / UNITS, tuple(run / UNITS for run in runs))
