"""Scores of knowledge probes: accuracy by kind, what changed between two models, and FUAR."""

from typing import Any

import numpy as np
import pyarrow as pa

from perdure.pipeline.evaluate.bootstrap import interval, resampled
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
    """Whether each item, by file and id, is answered rightly: its answer has the highest score, the first of equals."""
    return {(row["file"], row["id"]): int(np.argmax(row["scores"])) == row["answer"] for row in answers}


def accuracies(answers: list[dict], seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """By file and kind: `items`, `correct`, `accuracy`, its `interval`, `old` and `by_date`.

    `old` is the share of items with an old answer that chose it (None without such items).
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
        found.setdefault(file, {})[kind] = {
            "items": len(rows),
            "correct": int(correct.sum()),
            "accuracy": float(correct.mean()),
            "interval": _mean_interval(correct, seed),
            "old": float(np.mean(stale)) if stale else None,
            "by_date": {date: _of_date(rows, correct, date) for date in dates},
        }
    return found


def changes(before: list[dict], after: list[dict], seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Paired differences by file and kind, over the items that both models were asked.

    Returns:
        `items`, `gained` (wrong, then right), `lost` (right, then wrong), `change` of accuracy and its `interval`, and
        `relative`, the change as a share of the accuracy before (None if that was 0).
    """
    old, new = right(before), right(after)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file, kind, rows in _groups(after):
        keys = [(file, row["id"]) for row in rows if (file, row["id"]) in old]
        if not keys:
            continue
        difference = np.array([float(new[key]) - float(old[key]) for key in keys])
        accuracy = float(np.mean([old[key] for key in keys]))
        found.setdefault(file, {})[kind] = {
            "items": len(keys),
            "gained": int((difference > 0).sum()),
            "lost": int((difference < 0).sum()),
            "change": float(difference.mean()),
            "interval": _mean_interval(difference, seed),
            "relative": relative_change(accuracy, accuracy + float(difference.mean())),
        }
    return found


def fuar(changed: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """FUAR = sum max(0, drop on invariant) / sum [max(0, gain on updated) + max(0, gain on new)].

    Drops and gains are of accuracy, a term a file. 1 is break-even; below it, less was forgotten than learned.

    Args:
        changed: From `changes`.

    Returns:
        `value` (None: no gain, so no ratio), `lost` and `gained` (the two sums), and `words`.

    Source: Jang et al. 2022 (CKL, arXiv 2110.03215), section 4.
    """
    kinds = [(kind, entry["change"]) for file in changed.values() for kind, entry in file.items()]
    lost = sum((max(0.0, -change) for kind, change in kinds if kind == "invariant"), 0.0)
    gained = sum((max(0.0, change) for kind, change in kinds if kind != "invariant"), 0.0)
    value = lost / gained if gained else None
    return {"value": value, "lost": lost, "gained": gained, "words": _words(value)}


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
    """The rows of every file and kind, in the order of the files and of `KINDS`."""
    for file in dict.fromkeys(row["file"] for row in answers):
        for kind in KINDS:
            if rows := [row for row in answers if row["file"] == file and row["kind"] == kind]:
                yield file, kind, rows


def _of_date(rows: list[dict], correct: np.ndarray, date: str) -> dict[str, Any]:
    of_date = np.array([row["date"] == date for row in rows])
    return {"items": int(of_date.sum()), "accuracy": float(correct[of_date].mean())}


def _mean_interval(values: np.ndarray, seed: int) -> list[float] | None:
    return interval(resampled(values[None], np.ones(len(values)), seed)) if len(values) > 1 else None
