"""Distributions of document perplexities under a model, whole and by topic."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

from perdure.pipeline.cli.inspection.schema import Distribution, ScoredDocuments
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import open_shard

BINS = 24
"""Bars of a histogram of perplexities, of equal width in their logarithm."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def newest(scores: Iterable[Path]) -> list[Path]:
    """The scores of a source, of each model the directory with the most documents."""
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(scores):
        name = re.sub(r"\+[0-9a-f]{8}$", "", path.name)
        documents = read_json(path / "manifest.json").get("counts", {}).get("documents", 0)
        if name not in found or documents >= found[name][0]:
            found[name] = documents, path
    return [path for _, path in found.values()]


def scored(data: Path, scores: Path) -> np.ndarray:
    """Whether each training document of a source has scores, bool [documents over all shards]."""
    tasks = range(read_json(data / "manifest.json")["tasks"])
    return np.concatenate([open_shard(scores / f"{task:05d}.ref").lengths > 0 for task in tasks])


def distribution(data: Path, scores: Path) -> ScoredDocuments:
    """Quantiles and a histogram of the perplexities of a source's scored training documents.

    Args:
        data: The source's directory of shards.
        scores: One of its directories of scores.
    """
    model = scores.name.rpartition("@")[0]
    logs = np.log(
        parquet.read_table(scores / "docs.parquet", columns=["perplexity"])["perplexity"].to_numpy()
    )
    known = np.isfinite(logs)
    topics = parquet.read_table(data / "docs.parquet", columns=["topic"], filters=[("split", "==", "train")])
    if not known.any():
        return {"model": model, "documents": 0, "scored": len(logs), "of": len(topics)}
    low, high = np.quantile(logs[known], [0.005, 0.995])
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    labels = np.array(topics["topic"].to_pylist(), object)
    if len(logs) < len(labels):
        labels = labels[scored(data, scores)]
    return {
        "model": model,
        "scored": len(logs),
        "of": len(topics),
        "edges": [round(float(edge), 3) for edge in np.exp(edges)],
        **_bars(logs[known], edges),
        "topics": {
            topic: _bars(logs[known & (labels == topic)], edges)
            for topic in sorted({label for label in labels[known] if label is not None})
        },
    }


def _bars(logs: np.ndarray, edges: np.ndarray) -> Distribution:
    return {
        "documents": len(logs),
        "quantiles": {f"{q:.0%}": round(float(np.exp(np.quantile(logs, q))), 3) for q in QUANTILES},
        "histogram": np.histogram(np.clip(logs, edges[0], edges[-1]), edges)[0].tolist(),
    }
