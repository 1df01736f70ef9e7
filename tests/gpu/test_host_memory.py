"""The host's memory while a model is made on a pretended GPU: a tensor, not a model."""

import pytest
from gpu.layouts import prepared
from support import on_rank

LAYERS, HIDDEN, VOCABULARY = 24, 32, 300


@pytest.mark.slow
def test_the_host_holds_one_tensor_at_a_time(tmp_path):
    version, _ = prepared(tmp_path, {"model__num_layers": LAYERS})
    (found,) = on_rank("host_memory", version, script="gpu/pretended_ranks.py")
    largest = 4 * VOCABULARY * HIDDEN  # the embedding, in fp32 before it is rounded
    norms = 4 * (2 * LAYERS + 1) * HIDDEN  # which torch makes on the CPU, and moves
    assert found["model"] > 10 * largest
    assert found["built"] < norms + 1000
    assert largest <= found["peak"] < largest + 1000
