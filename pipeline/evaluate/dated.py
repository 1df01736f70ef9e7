"""Dated probes against cut-offs: what a version should know, what it cannot have seen, and what dates do not decide.

The idea of LiveBench (White et al. 2024, arXiv 2406.19314): a question about what came after the newest training text cannot
have been in it. Questions of both kinds are never averaged.
"""

from typing import Any, Literal

from perdure.pipeline.core.records import Cutoff
from perdure.pipeline.evaluate.probe_scores import right, scored
from perdure.pipeline.plan.cutoffs import cutoff_words, days_of
from perdure.pipeline.recipe.periods import PRECISIONS, Period, period

Timing = Literal["known", "unseen", "undecided"]
TIMINGS: dict[Timing, str] = {
    "known": "should know",
    "unseen": "unseen",
    "undecided": "undecided",
}
"""Kinds of dated probes, in words."""
MOST_DATES = 40
"""Dates of a chart; if there are more, days are put together to months, and months to years."""


def timing(date: Period, cutoff: Period) -> Timing:
    """Whether a fact of a date was there to be read before a cut-off.

    It was, if its date ends no later than the cut-off begins, or is the cut-off's own; it was not, if its date begins after
    the cut-off's end. Both may be as coarse as years: `2024` against 2024-06 is undecided.
    """
    if date.last <= cutoff.first or date == cutoff:
        return "known"
    return "unseen" if date.first > cutoff.last else "undecided"


def split(answers: list[dict] | None, cutoff: Cutoff | None, seed: int) -> dict[str, Any] | None:
    """A model's dated probes by what its cut-off says of them.

    Args:
        answers: Its rows of `eval_probes.parquet`; None if it was not asked.
        cutoff: Its cut-off; None if none was recorded.
        seed: Of the intervals.

    Returns:
        `cutoff` in words, `refused` (why there is no split; None if there is one), and `files`: by file and kind of `TIMINGS`
        what `probe_scores.scored` says, of `undecided` and `undated` probes how many `items`. None if there is nothing to say:
        no answers, no cut-off, or no dates.
    """
    if not answers or cutoff is None or not any(row["date"] for row in answers):
        return None
    days = days_of(cutoff)
    if days is None:
        return {"cutoff": cutoff_words(cutoff), "refused": "; ".join(cutoff["unknown"]) or None, "files": {}}
    hits, found = right(answers), dict[str, dict[str, Any]]()
    for file in dict.fromkeys(row["file"] for row in answers):
        rows: dict[str, list[dict]] = {kind: [] for kind in (*TIMINGS, "undated")}
        for row in answers:
            if row["file"] == file:
                date = period(row["date"])
                rows["undated" if date is None else timing(date, days)].append(row)
        decided = {kind: scored(rows[kind], hits, seed) for kind in ("known", "unseen") if rows[kind]}
        found[file] = decided | {kind: {"items": len(rows[kind])} for kind in ("undecided", "undated")}
    return {"cutoff": cutoff_words(cutoff), "refused": None, "files": found}


def by_date(kinds: dict[str, dict[str, Any]]) -> dict[str, tuple[float, int]]:
    """Accuracy and items of a file's probes by date, of all kinds together, in order.

    Dates are put together to the finest precision that leaves at most `MOST_DATES`, and that at least half of the probes have;
    coarser ones are left out.

    Args:
        kinds: By kind what `probe_scores.accuracies` says.
    """
    found = [(date, entry) for kind in kinds.values() for date, entry in kind["by_date"].items()]
    items = sum(entry["items"] for _, entry in found)

    def fits(length: int) -> bool:
        fine = [(date[:length], entry["items"]) for date, entry in found if len(date) >= length]
        return len({date for date, _ in fine}) <= MOST_DATES and 2 * sum(count for _, count in fine) >= items

    length = next((size for size in sorted(PRECISIONS, reverse=True) if fits(size)), min(PRECISIONS))
    sums: dict[str, tuple[float, int]] = {}
    for date, entry in sorted(found, key=lambda one: one[0]):
        if len(date) >= length:
            correct, number = sums.get(date[:length], (0.0, 0))
            sums[date[:length]] = correct + entry["accuracy"] * entry["items"], number + entry["items"]
    return {date: (correct / number, number) for date, (correct, number) in sums.items()}
