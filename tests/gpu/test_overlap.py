"""Overlap of gradients and weights with computation, and recomputation, on a pretended GPU: the bits of the plain run.

There weight gradients go straight into `main_grad`, as on a GPU alone, which is what overlap waits for.
"""

import pytest
from gpu.layouts import REPLICAS, SHARDED, STAGES, UNTIED, prepared
from support import on_rank

GRADIENTS = {"overlap_grad_reduce": True}
BOTH = GRADIENTS | {"overlap_param_gather": True}
BUCKET = 3000
"""Parameters, of which the small model has a few times as many."""

LAYOUTS: dict[str, tuple[dict, list[dict]]] = {
    "replicas": (REPLICAS, [GRADIENTS, *({"recompute": word} | GRADIENTS for word in ("selective", "full"))]),
    # Buckets that several replicas share make the norm's sum another one: it decides nothing here.
    "sharded": (
        SHARDED | UNTIED | {"training__clip_grad": 0},
        [GRADIENTS, *({"recompute": word} | BOTH for word in ("selective", "full"))],
    ),
    "stages": (STAGES | SHARDED, [{"recompute": "full"} | BOTH]),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_overlap_with_recomputation_gives_the_bits_of_neither(tmp_path, layout):
    changes, cases = LAYOUTS[layout]
    version, ranks = prepared(tmp_path, changes)
    bucket = None if layout == "stages" else BUCKET
    plain, *others = zip(
        *on_rank(
            "trained_under", version, [{}, *cases], 3, bucket, script="gpu/pretended_ranks.py", ranks=ranks
        ),
        strict=True,
    )
    for other in others:
        for before, after in zip(plain, other, strict=True):
            assert after["weights"] == before["weights"]
            assert [loss for loss, _ in after["steps"]] == [loss for loss, _ in before["steps"]]
            norms = [[norm for _, norm in case["steps"]] for case in (before, after)]
            assert norms[1] == (pytest.approx(norms[0], rel=1e-5) if layout == "sharded" else norms[0])
            assert bucket is None or (before["buckets"] == 1 and after["buckets"] > 2)
