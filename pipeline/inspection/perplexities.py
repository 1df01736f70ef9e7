"""Distributions of document perplexities under a model, whole and by topic."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

BINS = 24
"""Bars of a histogram of perplexities, of equal width in their logarithm."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def distribution(data: Path, scores: Path) -> dict:
    """Quantiles and a histogram of a source's training documents.

    Args:
        data: The source's directory of shards.
        scores: One of its directories of scores.

    Returns:
        `model`, `documents` (with a finite perplexity); if there are any, `edges` of the bars (the outermost hold the
        0.5% beyond them, too), `quantiles`, `histogram`, and `topics`: the latter two and `documents` by topic.
    """
    model = scores.name.rpartition("@")[0]
    logs = np.log(
        parquet.read_table(scores / "docs.parquet", columns=["perplexity"])["perplexity"].to_numpy()
    )
    known = np.isfinite(logs)
    if not known.any():
        return {"model": model, "documents": 0}
    low, high = np.quantile(logs[known], [0.005, 0.995])
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    topics = parquet.read_table(data / "docs.parquet", columns=["topic"], filters=[("split", "==", "train")])
    labels = np.array(topics["topic"].to_pylist(), object)
    return {
        "model": model,
        "edges": [round(float(edge), 3) for edge in np.exp(edges)],
        **_bars(logs[known], edges),
        "topics": {
            topic: _bars(logs[known & (labels == topic)], edges)
            for topic in sorted({label for label in labels[known] if label is not None})
        },
    }


def _bars(logs: np.ndarray, edges: np.ndarray) -> dict:
    return {
        "documents": len(logs),
        "quantiles": {f"{q:.0%}": round(float(np.exp(np.quantile(logs, q))), 3) for q in QUANTILES},
        "histogram": np.histogram(np.clip(logs, edges[0], edges[-1]), edges)[0].tolist(),
    }
