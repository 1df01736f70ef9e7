"""The language-model objective: which scores it reads, what it hands to the loss, when it looks at a whole batch first."""

from dataclasses import replace

import pytest
import torch

from perdure.pipeline.recipe import Selection
from perdure.pipeline.train.batch import Sample, collate, on_device
from perdure.pipeline.train.objectives import lm
from perdure.pipeline.train.objectives.lm import LanguageModeling

REFERENCE = {"reference": "/unused", "k": 0.5}


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    monkeypatch.setattr(lm.mpu, "get_data_parallel_group", lambda: None)


def batch_of(number: int):
    tokens = torch.arange(9).numpy()
    sample = Sample(tokens, (1000 * torch.arange(8)).int().numpy(), 7, (8,))
    return on_device(collate(range(number, number + 1), [sample]), torch.device("cpu"))


def test_without_a_selection_no_scores_are_read_and_all_valid_tokens_are_trained_on():
    objective, batch = LanguageModeling(), batch_of(0)
    assert objective.sidecars == () and objective.smoothing == 0
    assert objective.made_reference(0, range(2), 8) is None
    assert objective.loss_options(batch) == {"valid": batch.valid, "selected": None}
    assert objective.prepare(found := iter([batch]), pytest.fail) is found


@pytest.mark.parametrize(
    ("score", "sidecars", "made"),
    [("excess", ("ref",), False), ("intersection", ("ref", "ent"), False), ("random", (), True)],
)
def test_a_score_says_what_is_read_or_made(score, sidecars, made):
    objective = LanguageModeling(Selection(score=score, k=0.5))
    assert objective.sidecars == sidecars
    assert (objective.made_reference(0, range(2), 8) is not None) == made


def test_with_k_1_the_loss_is_the_plain_one():
    batch = batch_of(0)
    options = LanguageModeling(Selection(**REFERENCE | {"k": 1.0})).loss_options(batch)
    assert options == {"valid": batch.valid, "selected": None}


def test_a_share_competes_by_its_reference_and_the_threshold_of_the_batch_before():
    objective = LanguageModeling(Selection(**REFERENCE, scope="global_lagged"))
    options = objective.with_threshold(0.25).loss_options(batch_of(0))
    assert options["k"] == 0.5 and options["threshold"] == torch.tensor(0.25)
    assert options["reference_nll"].flatten().tolist() == pytest.approx([*range(8)])


@pytest.mark.parametrize(
    ("scope", "threshold", "looks"),
    [
        ("microbatch", None, False),
        ("global", None, True),
        ("global_lagged", None, True),
        ("global_lagged", 1.0, False),
    ],
)
def test_a_whole_batch_is_looked_at_first_where_its_tokens_compete(scope, threshold, looks):
    objective = LanguageModeling(Selection(**REFERENCE, scope=scope)).with_threshold(threshold)
    losses = [torch.arange(8.0)[None] * 3, torch.arange(8.0)[None]]
    batches = list(objective.prepare(iter([batch_of(0), batch_of(1)]), lambda whole: losses[: len(whole)]))
    assert (batches[0].selected is not None) == looks
    if looks:
        # Excess 0, 2, 4, ... of the first, 0 of the second: seven of fourteen tokens, of equal ones the first.
        assert sum(int(batch.selected.sum()) for batch in batches) == 7
        assert batches[0].selected[0].tolist() == [*[True] * 7, False]
        assert objective.loss_options(batches[0]).keys() == {"valid", "selected"}
        again = objective.prepare(iter([replace(batches[0], selected=None)]), lambda whole: [])
        assert next(again).selected is None  # on a stage that has no losses
