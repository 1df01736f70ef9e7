"""Scores of documents by a reference model on a pretended GPU, against the CPU's."""

import numpy as np
import pytest
from support import on_rank
from tiny import random_documents, tiny_llama


@pytest.mark.slow
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("bf16", 2e-2)])
def test_scores_on_the_gpu_are_those_of_the_cpu(tmp_path, precision, tolerance):
    # Large enough that losses are far from those of guessing.
    model = tiny_llama(tmp_path / "model", 300, initializer_range=0.3)
    documents = [document.tolist() for document in random_documents(1, 5, 300)]
    expected, found = (
        on_rank("score", model, pretended, precision, documents, script="gpu/pretended_ranks.py")[0]
        for pretended in (False, True)
    )
    assert [len(document) for document in documents] == [len(one[0]) for one in found]
    both = [np.concatenate([np.array(one) for one in scores], axis=1) for scores in (expected, found)]
    assert both[0].std() > 0.1
    np.testing.assert_allclose(both[1], both[0], rtol=tolerance, atol=tolerance)
