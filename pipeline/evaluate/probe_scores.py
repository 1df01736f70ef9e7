"""Scores of knowledge probes: accuracy by kind, what changed between two models, and FUAR."""

import math
from typing import Any

import numpy as np
import pyarrow as pa

from perdure.pipeline.evaluate.bootstrap import LEVEL, RESAMPLES, decided, interval, resampled
from perdure.pipeline.evaluate.metrics import relative_change
from perdure.pipeline.evaluate.probes import KINDS

ANSWERS = pa.schema(
    {
        "file": pa.string(),
        "id": pa.string(),
        "kind": pa.string(),
        "date": pa.string(),
        "answer": pa.int32(),
        "old_answer": pa.int32(),
        "scores": pa.list_(pa.float64()),
    }
)
"""Columns of `eval_probes.parquet`, a row an item: `answer` and `old_answer` number the choices; `scores` has the
log-likelihood of each, in nats per byte of the choice (and of the text after a blank)."""


def right(answers: list[dict]) -> dict[tuple[str, str], bool]:
    """Whether each item, by file and id, is answered correctly: the answer is the first choice with the highest score."""
    return {(row["file"], row["id"]): int(np.argmax(row["scores"])) == row["answer"] for row in answers}


def accuracies(answers: list[dict], seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """By file and kind: `items`, `correct`, `accuracy`, its `interval`, `chance`, `within_chance`, `old` and `by_date`.

    `chance` is the accuracy of guessing: the mean of 1 over the number of choices. `old` is the share of items with an old
    answer that chose it (None without such items).
    """
    hits = right(answers)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file, kind, rows in _groups(answers):
        correct = np.array([hits[file, row["id"]] for row in rows], float)
        stale = [
            int(np.argmax(row["scores"])) == row["old_answer"]
            for row in rows
            if row["old_answer"] is not None
        ]
        dates = sorted({row["date"] for row in rows if row["date"]})
        found.setdefault(file, {})[kind] = scored(rows, hits, seed) | {
            "old": float(np.mean(stale)) if stale else None,
            "by_date": {date: _of_date(rows, correct, date) for date in dates},
        }
    return found


def scored(rows: list[dict], hits: dict[tuple[str, str], bool], seed: int) -> dict[str, Any]:
    """`items`, `correct`, `accuracy`, its `interval`, `chance` and `within_chance` of some answers.

    Args:
        rows: The answers, at least one.
        hits: From `right`.
        seed: Decides the draws.
    """
    correct = np.array([hits[row["file"], row["id"]] for row in rows], float)
    guessed = float(np.mean([1 / len(row["scores"]) for row in rows]))
    bounds = mean_interval(correct, seed)
    return {
        "items": len(rows),
        "correct": int(correct.sum()),
        "accuracy": float(correct.mean()),
        "interval": bounds,
        "chance": guessed,
        "within_chance": not decided(bounds, len(rows), guessed),
    }


def changes(before: list[dict], after: list[dict], seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Paired differences by file and kind, over the items that both models were asked.

    Returns:
        `items`, `gained` (wrong, then right), `lost` (right, then wrong), `change` of accuracy, its `interval`, whether that
        is `within_chance`, and `relative`, the change as a share of the accuracy before (None if that was 0).
    """
    old = right(before)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file, kind, keys, difference in _pairs(before, after):
        accuracy = float(np.mean([old[key] for key in keys]))
        bounds = mean_interval(difference, seed)
        found.setdefault(file, {})[kind] = {
            "items": len(keys),
            "gained": int((difference > 0).sum()),
            "lost": int((difference < 0).sum()),
            "change": float(difference.mean()),
            "interval": bounds,
            "within_chance": not decided(bounds, len(keys)),
            "relative": relative_change(accuracy, accuracy + float(difference.mean())),
        }
    return found


def fuar(changed: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """FUAR = sum max(0, drop on invariant) / sum [max(0, gain on updated) + max(0, gain on new)].

    Drops and gains are of accuracy, a term for each file and kind. 1 is break-even; below it, less was forgotten than learned.
    The published formula takes a gain below 0 for none, so that new facts that were lost count nowhere: `uncounted` has them.

    Args:
        changed: From `changes`.

    Returns:
        `value` (None: no gain, so no ratio), `lost` and `gained` (the two sums), `uncounted` (by kind the sum of changes of
        accuracy that the formula takes for 0: gains below 0, and rises on invariant facts), and `words`.

    Source: Jang et al. 2022 (CKL, arXiv 2110.03215), section 4.
    """
    kinds = [(kind, entry["change"]) for file in changed.values() for kind, entry in file.items()]
    lost = sum((max(0.0, -change) for kind, change in kinds if kind == "invariant"), 0.0)
    gained = sum((max(0.0, change) for kind, change in kinds if kind != "invariant"), 0.0)
    uncounted: dict[str, float] = {}
    for kind, change in kinds:
        if change > 0 if kind == "invariant" else change < 0:
            uncounted[kind] = uncounted.get(kind, 0.0) + change
    value = lost / gained if gained else None
    return {"value": value, "lost": lost, "gained": gained, "uncounted": uncounted, "words": _words(value)}


def fuar_interval(before: list[dict], after: list[dict], seed: int) -> dict[str, Any]:
    """Confidence interval of FUAR: a paired bootstrap over the items of every file and kind.

    A resample that gains nothing has an unbounded ratio if it loses, and any ratio if it does not: it counts as 0 for the lower
    end, and as unbounded for the upper one.

    Args:
        before: Answers of what a version is compared with.
        after: Its own.
        seed: Decides the draws.

    Returns:
        `interval`, [low, high], None for an end that is unbounded, or as a whole if there is no term, or one of a single item;
        and `within_chance`: it holds 1, or a term has less than `FEWEST` items.
    """
    terms = [(kind, difference) for _, kind, _, difference in _pairs(before, after)]
    fewest = min((len(values) for _, values in terms), default=0)
    bounds = _ratio_interval(terms, seed) if fewest > 1 else None
    ends = None if bounds is None else [math.inf if bound is None else bound for bound in bounds]
    return {"interval": bounds, "within_chance": not decided(ends, fewest, 1.0)}


def _pairs(before: list[dict], after: list[dict]):
    """Yields per file and kind the items that both models answered, and float64 [items]: 1 gained, -1 lost, else 0."""
    old, new = right(before), right(after)
    for file, kind, rows in _groups(after):
        keys = [(file, row["id"]) for row in rows if (file, row["id"]) in old]
        if keys:
            yield file, kind, keys, np.array([float(new[key]) - float(old[key]) for key in keys])


def _ratio_interval(terms: list[tuple[str, np.ndarray]], seed: int) -> list[float | None]:
    """The percentile interval of FUAR over changes of accuracy by kind; None is unbounded."""
    lost, gained = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for number, (kind, values) in enumerate(terms):
        change = resampled(values[None], np.ones(len(values)), seed + number)[0]
        if kind == "invariant":
            lost += np.maximum(0.0, -change)
        else:
            gained += np.maximum(0.0, change)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = lost / gained
    nothing = (lost == 0) & (gained == 0)
    # Order statistics themselves: between an unbounded one and its neighbour nothing can be interpolated.
    low = np.quantile(np.where(nothing, 0.0, ratios), (1 - LEVEL) / 2, method="lower")
    high = np.quantile(np.where(nothing, np.inf, ratios), (1 + LEVEL) / 2, method="higher")
    return [float(bound) if np.isfinite(bound) else None for bound in (low, high)]


def counts(answers: list[dict]) -> dict[str, dict[str, Any]]:
    """By file: `items`, and how many of each kind as `kinds`."""
    found: dict[str, dict[str, Any]] = {}
    for file, kind, rows in _groups(answers):
        entry = found.setdefault(file, {"items": 0, "kinds": {}})
        entry["items"] += len(rows)
        entry["kinds"][kind] = len(rows)
    return found


def _words(value: float | None) -> str:
    if value is None:
        return "no gain"
    return "break-even" if value == 1 else "more learned" if value < 1 else "more forgotten"


def _groups(answers: list[dict]):
    """Yields the rows of every file and kind, in the order of the files and of `KINDS`."""
    for file in dict.fromkeys(row["file"] for row in answers):
        for kind in KINDS:
            if rows := [row for row in answers if row["file"] == file and row["kind"] == kind]:
                yield file, kind, rows


def _of_date(rows: list[dict], correct: np.ndarray, date: str) -> dict[str, Any]:
    of_date = np.array([row["date"] == date for row in rows])
    return {"items": int(of_date.sum()), "accuracy": float(correct[of_date].mean())}


def mean_interval(values: np.ndarray, seed: int) -> list[float] | None:
    """The bootstrap interval of a mean over items; None of a single one."""
    return interval(resampled(values[None], np.ones(len(values)), seed)) if len(values) > 1 else None
