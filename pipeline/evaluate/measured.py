"""What a report says beyond its losses, read from the files of a run: docs/evaluation.md describes every key."""

import math
import sys
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from pyarrow import parquet

from perdure.pipeline.domains import measured_domains, source_of
from perdure.pipeline.evaluate import metrics, probe_scores
from perdure.pipeline.evaluate.contamination import contamination
from perdure.pipeline.evaluate.documents import table_name
from perdure.pipeline.evaluate.harness_scores import harness_scores
from perdure.pipeline.evaluate.ledger import Ancestry, by_label, intervals, read_documents
from perdure.pipeline.evaluate.paths import Path, losses_along
from perdure.pipeline.evaluate.record import initial_evaluation
from perdure.pipeline.evaluate.siblings import compared, pairs
from perdure.pipeline.manifest import hash_of, read_json
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recorded import recorded


def measured(
    recipe: Recipe,
    losses: np.ndarray,
    evaluations: list[dict | None],
    steps: dict[str, dict[int, dict]],
    paths: dict[str, Path],
    starts: dict[str, np.ndarray],
    on: dict[str, Any],
    places: dict[str, FilePath],
) -> dict[str, Any]:
    """The keys of `report.json` that docs/evaluation.md lists.

    Args:
        recipe: The run, see `recorded.as_recorded`.
        losses: float64 [rows, domains], NaN where nothing was measured.
        evaluations: Per row, what `eval.json` holds.
        steps: By version its lines of `metrics.jsonl`, by step.
        paths: By version, where it comes from.
        starts: By version its `start_losses`.
        on: What the recipe measures on, see `evaluate/record.py`.
        places: By version the directory of its evaluation on that.
    """
    domains, sources = measured_domains(recipe), list(recipe.sources)
    known = {name: path for name, path in paths.items() if not np.isnan(losses[path.row]).all()}
    rows = ~np.isnan(losses).all(axis=1)
    # Parts of a source do not count again.
    counting = [source for source, column in zip(sources, losses[rows].T) if not np.isnan(column).any()]
    counting = counting if rows.any() else []
    bits = np.array([_column(domains, evaluation, "bits_per_byte") for evaluation in evaluations])
    columns = [domains.index(domain) for domain in counting]
    documents = read_documents(_files(places, on, "documents"), domains)
    ancestry = {
        name: Ancestry(path.row, path.parent, _best(losses_along(path, losses, starts), path, sources))
        for name, path in known.items()
    }
    found = [pair for pair in pairs(recorded(recipe)) if {pair.version, pair.against} <= set(known)]
    spans = intervals(
        documents,
        ancestry,
        counting,
        len(losses),
        recipe.seed,
        [(pair.version, pair.against) for pair in found],
    )
    shown = {name: _shown(domains, sources, path) for name, path in paths.items()}
    by_version = {name: losses[path.row] for name, path in known.items()}
    return {
        "shown": shown,
        "siblings": compared(found, domains, by_version, spans.pop("pairs"), spans["documents"], shown),
        "bits_per_byte_matrix": bits,
        "macro": {
            "domains": counting,
            "loss": _macro(losses, columns),
            "bits_per_byte": _macro(bits, columns),
        },
        "from_initial": {
            name: dict(zip(domains, losses[path.row] - losses[0])) for name, path in known.items()
        },
        "intervals": spans | {"missing": _missing(places, on, rows)},
        "labels": by_label(documents, recipe.seed),
        "stability_gap": {
            name: gap
            for name, path in paths.items()
            if (gap := _stability_gap(recipe, name, steps, path, on)) is not None
        },
        "probes": _probes(recipe, paths, places, on),
        "contamination": contamination(recipe, on),
        **harness_scores(recipe, paths),
    }


def _shown(domains: list[str], sources: list[str], path: Path) -> list[str]:
    """The domains of sources that a version or one before it trained on, or that the initial model is taken to know."""
    learned = {source for source, row in zip(sources, path.learned) if row is not None}
    return [domain for domain in domains if source_of(domain) in learned]


def _column(domains: list[str], evaluation: dict | None, key: str) -> list[float]:
    found = evaluation["domains"] if evaluation else {}
    values = [found.get(domain, {}).get(key) for domain in domains]
    return [_number(value) for value in values]


def _number(value: float | None) -> float:
    """JSON has no NaN."""
    return math.nan if value is None else value


def _macro(values: np.ndarray, columns: list[int]) -> np.ndarray:
    return values[:, columns].mean(axis=1) if columns else np.full(len(values), math.nan)


def _best(own: np.ndarray, path: Path, sources: list[str]) -> dict[str, int | None]:
    """By source that can be forgotten, the row of the lowest loss on the path; see `metrics.forgetting`."""
    rises = metrics.forgetting(own[:, : len(sources)], path.learned)
    return {
        source: path.rows[int(np.nanargmin(own[:, column]))]
        for column, source in enumerate(sources)
        if not np.isnan(rises[column])
    }


def _files(places: dict[str, FilePath], on: dict[str, Any], what: str) -> list[FilePath]:
    """The tables of every row; the initial model's may be absent."""
    start = initial_evaluation(places.values(), on)
    first = start.parent if start else next(iter(places.values())) / "unmeasured"
    return [
        first / table_name("eval_initial.json", what),
        *(place / table_name("eval.json", what) for place in places.values()),
    ]


def _missing(places: dict[str, FilePath], on: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Models that were measured before documents were kept apart: their losses have no intervals."""
    absent = [bool(row) and not path.exists() for row, path in zip(rows, _files(places, on, "documents"))]
    return {
        "initial": absent[0],
        "versions": [name for name, gone in zip(places, absent[1:]) if gone],
    }


# ------------------------------------------------------------------------------------- while training


def _stability_gap(
    recipe: Recipe, version: str, steps: dict[str, dict[int, dict]], path: Path, on: dict[str, Any]
) -> dict[str, Any] | None:
    """The held-out losses while a version trained, and what they show; None if none were measured on this text."""
    points = _points(recipe, version, steps[version], on)
    if not _measured_on_the_way(points):
        return None
    names = [
        domain for domain in measured_domains(recipe) if all(domain in losses for _, _, losses in points)
    ]
    if not names:
        return None
    tokens = [place for _, place, _ in points]
    curves = {name: [losses[name] for _, _, losses in points] for name in names}
    whole = [curves[source] for source in recipe.sources if source in curves]
    return {
        "steps": [step for step, _, _ in points],
        "tokens": tokens,
        "loss": curves,
        "macro": np.mean(whole, axis=0),
        "domains": {name: metrics.stability_gap(tokens, curve) for name, curve in curves.items()},
        **_min_acc(recipe, version, steps, path, on),
    }


def _points(
    recipe: Recipe, version: str, steps: dict[int, dict], on: dict[str, Any]
) -> list[tuple[int, int, dict[str, float]]]:
    """Steps, tokens and held-out losses on this text of every measurement of a version: on the way, and at its end.

    NaN is a loss that was not finite.
    """
    points = [
        (step - 1, steps[step - 1]["tokens"] if step > 1 else 0, entry["heldout_before"])
        for step, entry in sorted(steps.items())
        if entry.get("heldout_before")
    ]
    record = recipe.directory / "versions" / version / "version.json"
    final = read_json(record) if record.exists() else {}
    if "heldout" in final:
        points.append((final["steps"], final["tokens"], final["heldout"]))
    if not points:
        return []
    then = read_json(recipe.directory / "versions" / version / "inputs.json")["measured"]
    if then["max_tokens"] != on["max_tokens"]:
        return []
    own = (None, hash_of(then)[:8])
    if any(entry.get("heldout_on") not in own for entry in steps.values()):
        return []  # begun on other text: no curve from the version's start
    rules, rules_then = on.get("sampled", {}), then.get("sampled", {})
    same = {
        domain
        for domain, text in on["data"].items()
        if then["data"].get(domain) == text and rules_then.get(domain) == rules.get(domain)
    }
    return [
        (step, tokens, {domain: _number(losses[domain]) for domain in losses if domain in same})
        for step, tokens, losses in points
    ]


def start_losses(recipe: Recipe, version: str, steps: dict[int, dict], on: dict[str, Any]) -> np.ndarray:
    """A version's losses before its first step by domain, NaN where they were not measured on this text."""
    first = next((losses for step, _, losses in _points(recipe, version, steps, on) if step == 0), {})
    return np.array([first.get(domain, math.nan) for domain in measured_domains(recipe)])


def _min_acc(
    recipe: Recipe, version: str, steps: dict[str, dict[int, dict]], path: Path, on: dict[str, Any]
) -> dict[str, float | list[str]]:
    """`min_acc`: each domain at its worst from when it was learned, in every version from there on.

    `min_acc_unmeasured` names those of them that were not measured on the way, of which only the end counts.
    """
    along = list(zip(path.members, [*path.steps, sys.maxsize]))
    points = {member: _points(recipe, member, steps[member], on) for member, _ in along}
    worst, unmeasured = [], set[str]()
    for source, row in zip(recipe.sources, path.learned):
        seen = list[float]()
        if row is not None and row < len(path.rows) - 1:
            # Of the version that learned it, its end; of the initial model, the first one's start.
            learner = along[row - 1 : row] if row else []
            spans = [(member, left, left) for member, left in learner]
            for member, first, left in [*spans, *((member, 0, left) for member, left in along[row:])]:
                own = [point for point in points[member] if source in point[2]]
                losses = [found[source] for step, _, found in own if first <= step <= left]
                seen += [loss for loss in losses if not math.isnan(loss)]
                if first == 0 and not _measured_on_the_way(own):
                    unmeasured.add(member)
        worst.append(max(seen, default=math.nan))
    return {
        "min_acc": metrics.min_accuracy(worst, path.learned, len(path.rows) - 1),
        "min_acc_unmeasured": [member for member, _ in along if member in unmeasured],
    }


def _measured_on_the_way(points: list[tuple[int, int, dict[str, float]]]) -> bool:
    """Whether the version was measured before its end, as `evaluation.interval` does, and not at its end alone."""
    return len(points) > 1 or any(step == 0 for step, _, _ in points)


# --------------------------------------------------------------------------------------------- probes


def _probes(
    recipe: Recipe, paths: dict[str, Path], places: dict[str, FilePath], on: dict[str, Any]
) -> dict[str, Any] | None:
    answers = [
        parquet.read_table(path).to_pylist() if path.exists() else None
        for path in _files(places, on, "probes")
    ]
    asked = next((found for found in reversed(answers) if found), None)
    if asked is None:
        return None
    pairs = {
        name: {
            base: (before, after)
            for base, row in (("parent", path.parent), ("initial", 0))
            if row is not None and (before := answers[row]) is not None
        }
        for name, path in paths.items()
        if (after := answers[path.row]) is not None
    }
    changes = {
        name: {base: probe_scores.changes(*pair, recipe.seed) for base, pair in by_base.items()}
        for name, by_base in pairs.items()
    }
    return {
        "files": probe_scores.counts(asked),
        "scores": [found and probe_scores.accuracies(found, recipe.seed) for found in answers],
        "change": changes,
        "fuar": {
            name: {
                base: probe_scores.fuar(changes[name][base]) | probe_scores.fuar_interval(*pair, recipe.seed)
                for base, pair in by_base.items()
            }
            for name, by_base in pairs.items()
        },
    }
