"""Warnings about cleaning steps that drop much, and about characters without tokens."""

import json
from pathlib import Path

from perdure.pipeline.data.read.repositories import JOINED
from perdure.pipeline.recipe.where import WHERE

SHARE = 0.2
"""Of the documents or words that a step takes in; what it drops beyond that is told."""
MUCH = 0.001
"""Share of characters without tokens from which on the console warns."""
EXCERPTS, EXCERPT_CHARS = 2, 80


def heavy_drops(counts: dict, dropped: Path) -> list[dict]:
    """Steps that drop more than a fifth of their documents, or of their words.

    Args:
        counts: Of the manifest of a source's data or cleaned documents.
        dropped: The directory with examples of what was dropped.

    Returns:
        For each: `step`, `share`, `says` (how many of how many, by reason), and `excerpts`, of two documents: `id` and `text`.
    """
    found = []
    for step in counts["steps"]:
        dropped_by = {
            reason: entry for reason, entry in step["dropped"].items() if reason not in (WHERE, JOINED)
        }
        lost = {unit: sum(entry[unit] for entry in dropped_by.values()) for unit in ("documents", "words")}
        shares = {unit: count / step["in"][unit] for unit, count in lost.items() if count}
        unit = max(shares, key=lambda unit: (shares[unit] > SHARE, unit == "documents"), default="documents")
        if not shares or shares[unit] <= SHARE:
            continue
        entries = sorted(dropped_by.items(), key=lambda entry: -entry[1][unit])
        reasons = ", ".join(f"{entry[unit]:,} {reason}" for reason, entry in entries if entry[unit])
        says = f"{step['step']} dropped {lost[unit]:,} of {step['in'][unit]:,} {unit} ({shares[unit]:.0%}): {reasons}"
        excerpts = _excerpts(dropped / f"{step['step']}.jsonl", entries[0][0])
        found.append({"step": step["step"], "share": shares[unit], "says": says, "excerpts": excerpts})
    return found


def drops_lines(source: str, heavy: list[dict]) -> list[str]:
    """One console line per step."""
    return [
        f"{source}: {step['says']}"
        + "".join(f"; {excerpt['id']}: {excerpt['text']!r}" for excerpt in step["excerpts"])
        for step in heavy
    ]


def lost_line(name: str, counts: dict) -> str:
    """The console line about characters that the tokenizer has no token for; a warning if there are many."""
    lost = counts.get("without_tokens")
    if not lost or not lost["characters"]:
        return ""
    share, example = lost["characters"] / lost["of"], lost["example"]
    return (
        f"{'WARNING: ' if share >= MUCH else ''}{name}: the tokenizer has no token for {lost['characters']:,} of "
        f"{lost['of']:,} characters ({share:.2%}) in {lost['documents']:,} documents; most in {example['id']} "
        f"({example['share']:.0%} of {example['text']!r})"
    )


def _excerpts(path: Path, reason: str) -> list[dict[str, str]]:
    """The beginnings of two dropped documents, those of a given reason first."""
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.open("rb")]
    rows.sort(key=lambda row: row["reason"] != reason)
    return [
        {"id": row["id"], "text": " ".join(row["text"].split())[:EXCERPT_CHARS]} for row in rows[:EXCERPTS]
    ]
