"""Sources whose tokens are numbered; test files of parts and orders have their own."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tiny import write_data

from tests.pipeline.plan.numbered import numbered_documents


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sources of two shards: `a` with 2 x 30 documents from token 1 on, `b` with 2 x 5 from 30,001 on."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    found = {}
    for name, count, first in (("a", 30, 1), ("b", 5, 30_001)):
        tasks = []
        for _ in range(2):
            tasks.append(numbered_documents(rng.integers(1, 90, count).tolist(), first))
            first += sum(len(document) for document in tasks[-1])
        found[name] = write_data(root / name, tasks, numbered_documents([5], 60_000), 65_000)
    return found


@pytest.fixture(scope="module")
def scores(tmp_path_factory, data):
    """Perplexities for `a`'s documents."""
    rng = np.random.default_rng(1)
    rows = [
        {"shard": shard, "sequence": sequence, "perplexity": float(rng.integers(2, 40))}
        for shard in range(2)
        for sequence in range(30)
    ]
    directory = tmp_path_factory.mktemp("scores") / "model@1"
    directory.mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), directory / "docs.parquet")
    return {"a": directory}
