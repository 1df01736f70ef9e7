"""Bootstrap intervals of the metrics along versions' paths, from resampled losses of domains."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from perdure.pipeline.evaluate import metrics
from perdure.pipeline.evaluate.bootstrap import RESAMPLES, interval
from perdure.pipeline.evaluate.report.lineage_paths import LineagePath, losses_along, path_metrics

TERMS: dict[str, Callable[[np.ndarray, Sequence[int | None]], list[np.ndarray]]] = {
    "acc": metrics.accuracy_terms,
    "bwt": metrics.backward_terms,
    "fwt": metrics.forward_terms,
    "fwt_gem": metrics.gem_forward_terms,
}
"""The terms of each metric, by its key in a report."""


def metric_intervals(
    paths: Mapping[str, LineagePath],
    sources: list[str],
    losses: np.ndarray,
    starts: dict[str, np.ndarray],
    drawn: Mapping[str, np.ndarray],
) -> dict[str, dict[str, list[float] | None]]:
    """By version the intervals of `acc`, `bwt`, `fwt`, `fwt_gem` and mean `forgetting`.

    Domains are resampled independently; one draw of a domain's documents serves all models. The best row that forgetting
    compares with is the one of the measured losses. An interval is None where a loss that the metric takes has no documents.

    Args:
        paths: Of the versions that were measured.
        sources: The first columns of `losses`; parts of sources come behind them.
        losses: float64 [rows, domains], the loss matrix.
        starts: By version its losses before its first step, see `perdure.pipeline.evaluate.report.lineage_paths`.
        drawn: By domain float64 [rows, RESAMPLES], resampled losses in the unit of the intervals.
    """
    found, numbers = {}, path_metrics(dict(paths), sources, losses, starts)
    for name, path in paths.items():
        own = losses_along(path, losses, starts)[:, : len(sources)]
        redrawn = _along(path, sources, drawn)
        spans = {
            key: _interval(terms(own, path.learned), terms(redrawn, path.learned), _divided(key, own, path))
            for key, terms in TERMS.items()
        } | {"forgetting": _interval(*_rises(own, redrawn, path))}
        values = {key: numbers[key][name] for key in TERMS} | {
            "forgetting": numbers["forgetting"][name]["mean"]
        }
        found[name] = {key: None if math.isnan(values[key]) else span for key, span in spans.items()}
    return found


def _along(path: LineagePath, sources: list[str], drawn: Mapping[str, np.ndarray]) -> np.ndarray:
    """Resampled losses of every model on a path, float64 [rows of the path, sources, RESAMPLES], NaN without documents."""
    found = np.full((len(path.rows), len(sources), RESAMPLES), math.nan)
    for column, source in enumerate(sources):
        for place, row in enumerate(path.rows):
            if row is not None and source in drawn:
                found[place, column] = drawn[source][row]
    return found


def _divided(key: str, own: np.ndarray, path: LineagePath) -> int:
    return metrics.uncounted_domains(own, path.learned) if key == "fwt" else 0


def _rises(
    own: np.ndarray, redrawn: np.ndarray, path: LineagePath
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The terms of forgetting, measured and resampled."""
    rises = metrics.forgetting(own, path.learned)
    known = np.flatnonzero(~np.isnan(rises))
    return list(rises[known]), [redrawn[-1, i] - redrawn[np.nanargmin(own[:, i]), i] for i in known]


def _interval(
    measured: Sequence[np.ndarray], redrawn: Sequence[np.ndarray], uncounted: int = 0
) -> list[float] | None:
    """The interval of a mean over terms; terms that were not measured are left out."""
    terms = [values for value, values in zip(measured, redrawn, strict=True) if not np.isnan(value)]
    if not terms or np.isnan(terms).any():
        return None
    return interval(np.sum(terms, axis=0) / (len(terms) + uncounted))
