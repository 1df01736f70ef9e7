"""Sums over documents of a micro-batch, numbers of documents given to labels, and losses of a reference that are not known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import EOS, write_data, write_masks, write_scores

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import REF_MAX_UNITS, REF_MISSING, REF_NATS_PER_UNIT
from perdure.pipeline.model.documents import documents_of
from perdure.pipeline.train.batch import Sample, collate, on_device
from perdure.pipeline.train.objectives.sequences import reference_losses, sum_documents, to_labels
from perdure.pipeline.train.streams import open_stream, read_sample

CPU = torch.device("cpu")


def test_sums_are_of_each_document_row_after_row():
    documents = documents_of((3, 1, 4, 8), CPU)
    values = torch.arange(16.0).view(2, 8)
    found = sum_documents(values, documents)
    assert found.dtype == torch.float64 and found.tolist() == [3.0, 3.0, 22.0, 92.0]
    assert sum_documents(torch.full((2, 8), -torch.inf), documents).tolist() == [-torch.inf] * 4


def test_each_label_has_the_number_of_its_document():
    documents = documents_of((3, 1, 4, 8), CPU)
    found = to_labels(torch.tensor([1.5, -2.0, 0.0, 4.0]), documents, torch.Size((2, 8)))
    assert found.tolist() == [[1.5] * 3 + [-2.0] + [0.0] * 4, [4.0] * 8]


def test_losses_of_the_reference_are_nats_of_labels_that_count():
    reference = np.array([REF_MISSING, 500, 1250, REF_MISSING], np.int32)
    sample = Sample(np.arange(5), reference, 3, (4,), np.array([False, True, True, True]))
    batch = on_device(collate(range(1), [sample]), CPU)
    assert reference_losses(batch).tolist() == [[0.0, 0.5, 1.25, 0.0]]


@pytest.mark.parametrize("units", [REF_MAX_UNITS, REF_MISSING])
@pytest.mark.parametrize("masked", [False, True])
def test_a_document_whose_likelihood_is_not_known_is_refused_by_its_number(tmp_path, units, masked):
    """In the second document the first token has no label; the value of its second one is missing, or was clipped."""
    documents = [np.array([5, 6, EOS], np.uint16), np.array([7, 8, 9, EOS], np.uint16)]
    data = write_data(tmp_path / "data", [documents], [], 16)
    if masked:
        write_masks(data, [[np.array([0, 1, 1]), np.array([0, 1, 1, 0])]], [])
    losses = [np.ones(3), np.array([65.535 if masked else 1.0, units * REF_NATS_PER_UNIT, 1.0, 1.0])]
    scores = write_scores(tmp_path / "scores", data, [losses])
    stream = replace(open_stream(data, scores, np.arange(2), np.array([3, 7])), packed=True)
    read_sample(stream, 0, 8)  # selection does without the token
    stream = replace(stream, complete=True)
    with pytest.raises(
        PerdureError, match=r"document 1 has 1 labels to which the reference gives no loss, or one of more"
    ):
        read_sample(stream, 0, 8)
    assert read_sample(replace(stream, ends=np.array([3])), 0, 3).num_valid == 3
