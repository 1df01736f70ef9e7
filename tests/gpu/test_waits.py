"""How often the host waits for the GPU in one turn of the training loop: a budget by place, which can only fall.

The test fails when a wait is added, and when one is gone: then its number below is lowered, so that it does not come back.
"""

import pytest
import torch
from gpu import true_waits
from gpu.layouts import STAGES, prepared, selection
from support import on_rank
from tiny import tiny_llama

Waits = dict[str, int]

READ: Waits = {}
"""Of a micro-batch's reading, documents and all: it is copied from pinned memory."""

LOSS: Waits = {
    # How many tokens are selected is the number of rows of the backward pass.
    "kernels.operation.SelectiveLinearCrossEntropy.forward: nonzero": 1,
}
"""Of a micro-batch's loss, each time it is computed."""

STEP: Waits = {
    # Counts, losses and the gradient norm of all ranks: the guard judges them before the update, and the norm clips.
    "pipeline.train.counts.read_counts: copy to the host": 1,
    # Whether a signal came to any rank. It is asked behind the update, so that the seconds of a step include its last kernels.
    "pipeline.train.guard.agree: item": 1,
}

HELD = {
    "versions__v1__anchor": {"type": "kl", "on": "replayed", "instead_of_loss": True},
    "versions__v1__mixture": {
        "sources": {"a": {}},
        "replay": {"share": 0.5, "sources": {"b": {}}},
        "max_repetition": 100,
    },
}
"""Half of the samples are old, and held near a teacher's predictions."""

BUDGETS: dict[str, tuple[dict, Waits, Waits]] = {
    "microbatch": (selection("microbatch"), READ | LOSS, STEP),
    "documents": (
        {"training__document_mask": True} | selection("global_lagged"),
        READ | LOSS,
        STEP,
    ),
    "global": (selection("global"), READ | dict.fromkeys(LOSS, 2), STEP),
    # Transfers between stages are waited for by the GPU alone.
    "first stage": (STAGES, READ, STEP),
    # Which tokens are compared with the teacher is known from the batch as it was read.
    "teacher": (HELD, READ | LOSS, STEP),
}
"""By option: changes of the recipe, waits of each micro-batch, and waits of a step besides."""


EVALUATION: tuple[Waits, Waits] = (
    LOSS,
    # What was counted, and the sums of every document.
    {
        "pipeline.train.counts.read_counts: copy to the host": 1,
        "pipeline.train.evaluate._domain: copy to the host": 1,
    },
)
"""Of each micro-batch of held-out text, and of a domain besides."""

SCORING: tuple[Waits, Waits] = (
    {
        # transformers asks whether positions begin anew inside a row, as those of packed sequences do.
        "pipeline.data.score.losses._losses: item": 1,
        # For the scores, when the next forward pass has been asked for.
        "pipeline.core.sending.received.wait: synchronize": 1,
    },
    # Whether the output layer is all that makes logits of hidden states.
    {"pipeline.data.score.losses.output_head: item": 2},
)
"""Of each forward pass of the reference model, and of a call besides."""


def turn(directory, changes: dict, micro_batches: int, fault: str = "", pretended: bool = True) -> Waits:
    """Waits of one turn of the loop by place, on the first rank."""
    shape = {
        "training__checkpoint_interval": 100,
        "training__global_batch_size": 2 * micro_batches,
        "versions__v1__tokens": 4 * 16 * 2 * micro_batches,
    }
    version, ranks = prepared(directory, shape | changes)
    asked = ("loop", version, fault, pretended)
    return on_rank(*asked, script="gpu/pretended_ranks.py", ranks=ranks)[0]["waits"]


def rates(few: Waits, many: Waits) -> tuple[Waits, Waits]:
    """Waits of each micro-batch and of a step besides, from turns of one and of two micro-batches."""
    each = {place: count - few.get(place, 0) for place, count in many.items()}
    besides = {place: count - each[place] for place, count in few.items()}
    each, besides = ({place: count for place, count in found.items() if count} for found in (each, besides))
    return each, besides


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETS)
def test_the_host_waits_as_often_as_budgeted(tmp_path, name):
    changes, each, besides = BUDGETS[name]
    few, many = (turn(tmp_path / str(number), changes, number) for number in (1, 2))
    assert rates(few, many) == (each, besides)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["evaluation", "scoring"])
def test_the_host_waits_as_often_as_budgeted_where_nothing_is_trained(tmp_path, what):
    if what == "evaluation":
        given = [prepared(tmp_path, {"training__document_mask": True})[0]]
    else:
        given = [tiny_llama(tmp_path / "model", 300)]
    (few, fewer), (many, more) = on_rank(what, *given, script="gpu/waiting_ranks.py")[0]
    difference = {place: count - few.get(place, 0) for place, count in many.items()}
    assert more > fewer and all(count % (more - fewer) == 0 for count in difference.values())
    each = {place: count // (more - fewer) for place, count in difference.items() if count}
    besides = {place: count - fewer * each.get(place, 0) for place, count in few.items()}
    besides = {place: count for place, count in besides.items() if count}
    assert (each, besides) == (EVALUATION if what == "evaluation" else SCORING)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, reason", [("item", "item"), ("pageable", "copy to the GPU, non_blocking in pageable memory")]
)
def test_a_wait_that_is_added_breaks_the_budget(tmp_path, fault, reason):
    """A number that the host asks for in the loss, and batches whose memory is not pinned."""
    changes, each, besides = BUDGETS["microbatch"]
    found = turn(tmp_path, changes, 1, fault)
    budget = {place: each.get(place, 0) + besides.get(place, 0) for place in each | besides}
    added = {place: count for place, count in found.items() if count != budget.get(place)}
    # Tokens, labels, mask, scores, sources, which are old, and where documents end.
    assert list(added.values()) == [1 if fault == "item" else 7] and next(iter(added)).endswith(f": {reason}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["microbatch", "documents", "global"] if torch.cuda.is_available() else ["documents"]
)
def test_a_real_gpu_waits_where_the_pretended_one_does_and_a_cpu_never(tmp_path, name):
    changes, *budgets = BUDGETS[name]
    few, many = (turn(tmp_path / str(number), changes, number, pretended=False) for number in (1, 2))
    found = [true_waits.by_place(waits) for waits in rates(few, many)]
    expected = [true_waits.by_place(waits) if torch.cuda.is_available() else {} for waits in budgets]
    for when, one, other in zip(("a micro-batch", "a step besides"), found, expected):
        true_waits.record(name, when, one, other)
    assert found == expected
