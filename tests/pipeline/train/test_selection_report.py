"""Which document each label of a packed sample belongs to, and its topic."""

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from tiny import EOS, write_data

from perdure.pipeline.train.selection_report import document_topics, label_documents
from perdure.pipeline.train.streams import open_stream, read_sample


def test_labels_know_their_document_and_its_topic(tmp_path):
    """Document d consists of the token d + 1 and an end, so that labels say themselves where they come from."""
    lengths = [[3, 7], [5, 2, 6]]
    numbers = iter(range(5))
    tasks = [
        [np.append(np.full(size - 1, next(numbers) + 1), EOS).astype(np.uint16) for size in sizes]
        for sizes in lengths
    ]
    data = write_data(tmp_path / "data", tasks, [], 16)
    order = np.array([3, 0, 4, 2, 1])
    ends = np.cumsum(np.array([size for sizes in lengths for size in sizes])[order])
    stream = open_stream(data, None, order, ends)
    found = []
    for sample in range(3):
        tokens, _, valid, *_ = read_sample(stream, sample, 8)
        documents = label_documents(stream, sample, 8)
        assert len(documents) == valid
        own = tokens[1 : 1 + valid]
        assert np.array_equal(own[own != EOS], documents[own != EOS] + 1)
        found += documents.tolist()
    assert found == np.repeat(order, np.diff([0, *ends])).tolist()

    starts, wanted = np.array([0, 2]), np.array([0, 1, 3, 4])
    assert document_topics(data, starts, wanted) == {}
    table = parquet.read_table(data / "docs.parquet").to_pylist()
    topics = ["law", None, "art", "law", "art"]
    named = [row | {"topic": topic} for row, topic in zip(table, topics, strict=True)]
    held_out = {**named[0], "split": "heldout", "topic": "no"}
    parquet.write_table(pa.Table.from_pylist([held_out, *reversed(named)]), data / "docs.parquet")
    assert document_topics(data, starts, wanted) == {0: "law", 3: "law", 4: "art"}
    parquet.write_table(pa.Table.from_pylist([row | {"topic": None} for row in table]), data / "docs.parquet")
    assert document_topics(data, starts, wanted) == {}
