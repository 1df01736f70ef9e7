"""Measurements of a report beyond its loss matrix; docs/evaluation.md describes every key."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from perdure.pipeline.core.records import Cutoff, MeasuredOn
from perdure.pipeline.evaluate import metrics, probe_scores
from perdure.pipeline.evaluate.contamination import contamination
from perdure.pipeline.evaluate.dated import split
from perdure.pipeline.evaluate.documents import table_name
from perdure.pipeline.evaluate.infill import infilled_sources
from perdure.pipeline.evaluate.preferences import against_reference, pair_sources, reference_row
from perdure.pipeline.evaluate.record import initial_evaluation
from perdure.pipeline.evaluate.report.harness_scores import harness_scores
from perdure.pipeline.evaluate.report.ledger import Ancestry, by_label, draws, intervals, read_documents
from perdure.pipeline.evaluate.report.lineage_paths import LineagePath, learned_sources, losses_along
from perdure.pipeline.evaluate.report.metric_intervals import metric_intervals
from perdure.pipeline.evaluate.report.siblings import compared, pairs
from perdure.pipeline.plan.domains import measured_domains, source_of
from perdure.pipeline.plan.recorded import recorded
from perdure.pipeline.recipe import Recipe


def measured(
    recipe: Recipe,
    losses: np.ndarray,
    evaluations: list[dict | None],
    paths: dict[str, LineagePath],
    starts: dict[str, np.ndarray],
    on: MeasuredOn,
    places: dict[str, Path],
    cutoffs: list[Cutoff | None],
) -> dict[str, Any]:
    """The measured keys of `report.json`, see docs/evaluation.md.

    Args:
        recipe: The run, see `recorded.as_recorded`.
        losses: float64 [rows, domains], NaN where nothing was measured.
        evaluations: Per row, what `eval.json` holds.
        paths: By version, where it comes from.
        starts: By version its `start_losses`.
        on: What the recipe measures on, see `evaluate/record.py`.
        places: By version the directory of its evaluation on that.
        cutoffs: Per row, the model's cut-off; None if none is recorded.
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
    drawn = draws(documents, recipe.seed)
    spans = intervals(
        documents,
        drawn,
        ancestry,
        counting,
        len(losses),
        recipe.seed,
        [(pair.version, pair.against) for pair in found],
    )
    in_bits = {domain: values * documents[domain].bits_per_nat for domain, values in drawn.items()}
    for key, values in (("metrics", drawn), ("metrics_bits_per_byte", in_bits)):
        spans[key] = metric_intervals(known, sources, losses, starts, values)
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
        "probes": _probes(recipe, paths, places, on, cutoffs),
        "fill_in_the_middle": _by_source(infilled_sources(recipe), evaluations, "fill_in_the_middle"),
        "preferences": _preferences(recipe, evaluations),
        "contamination": contamination(recipe, on),
        **harness_scores(recipe, paths),
    }


def _preferences(recipe: Recipe, evaluations: list[dict | None]) -> dict[str, list[dict | None]] | None:
    found = _by_source(pair_sources(recipe), evaluations, "preferences")
    return found and {
        source: against_reference(rows, reference_row(recipe, source)) for source, rows in found.items()
    }


def _by_source(
    sources: Iterable[str], evaluations: list[dict | None], key: str
) -> dict[str, list[dict | None]] | None:
    """By source per row what its evaluation has under a key; None if none has anything."""
    found = {
        source: [entry and entry.get(key, {}).get(source) for entry in evaluations] for source in sources
    }
    return found if any(any(row) for row in found.values()) else None


def _shown(domains: list[str], sources: list[str], path: LineagePath) -> list[str]:
    """The domains of sources that a version or an ancestor trained on, or that the initial model is taken to know."""
    learned = set(learned_sources(sources, path))
    return [domain for domain in domains if source_of(domain) in learned]


def _column(domains: list[str], evaluation: dict | None, key: str) -> list[float]:
    found = evaluation["domains"] if evaluation else {}
    values = [found.get(domain, {}).get(key) for domain in domains]
    return [math.nan if value is None else value for value in values]


def _macro(values: np.ndarray, columns: list[int]) -> np.ndarray:
    return values[:, columns].mean(axis=1) if columns else np.full(len(values), math.nan)


def _best(own: np.ndarray, path: LineagePath, sources: list[str]) -> dict[str, int | None]:
    """By source that was learned before, the row of the lowest loss on the path; see `metrics.forgetting`."""
    rises = metrics.forgetting(own[:, : len(sources)], path.learned)
    return {
        source: path.rows[int(np.nanargmin(own[:, column]))]
        for column, source in enumerate(sources)
        if not np.isnan(rises[column])
    }


def _files(places: dict[str, Path], on: MeasuredOn, what: str) -> list[Path]:
    """Paths of the tables of every row; the initial model's may not exist."""
    start = initial_evaluation(places.values(), on)
    first = start.parent if start else next(iter(places.values())) / "unmeasured"
    return [
        first / table_name("eval_initial.json", what),
        *(place / table_name("eval.json", what) for place in places.values()),
    ]


def _missing(places: dict[str, Path], on: MeasuredOn, rows: np.ndarray) -> dict[str, Any]:
    """Models without losses by document, from earlier releases: their losses have no intervals."""
    absent = [bool(row) and not path.exists() for row, path in zip(rows, _files(places, on, "documents"))]
    return {
        "initial": absent[0],
        "versions": [name for name, gone in zip(places, absent[1:]) if gone],
    }


# --------------------------------------------------------------------------------------------- probes


def _probes(
    recipe: Recipe,
    paths: dict[str, LineagePath],
    places: dict[str, Path],
    on: MeasuredOn,
    cutoffs: list[Cutoff | None],
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
        "split": [split(found, cutoff, recipe.seed) for found, cutoff in zip(answers, cutoffs, strict=True)],
        "change": changes,
        "fuar": {
            name: {
                base: probe_scores.fuar(changes[name][base]) | probe_scores.fuar_interval(*pair, recipe.seed)
                for base, pair in by_base.items()
            }
            for name, by_base in pairs.items()
        },
    }
