"""The threshold that one batch hands on to the next: of new tokens that count, by sums written out."""

import math

import pytest
import torch

from perdure.pipeline.core.shards import REF_MISSING
from perdure.pipeline.recipe import Selection
from perdure.pipeline.train import selection as module
from perdure.pipeline.train.batch import Batch


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    monkeypatch.setattr(module.mpu, "is_pipeline_last_stage", lambda: True)
    monkeypatch.setattr(module.mpu, "get_pipeline_model_parallel_world_size", lambda: 1)
    monkeypatch.setattr(module.mpu, "get_data_parallel_group", lambda: None)


def losses_of(seed: int, replayed: list[bool]) -> tuple[list, list[Batch]]:
    """Two micro-batches of three samples of eight labels, some without a reference, some padding."""
    generator, losses, batches = torch.Generator().manual_seed(seed), [], []
    for number in range(2):
        reference = torch.randint(0, 4000, (3, 8), generator=generator, dtype=torch.int32)
        reference[0, :2] = REF_MISSING
        valid = torch.arange(8)[None] < torch.tensor([[8], [5], [8]])
        nll = 6 * torch.rand(3, 8, generator=generator)
        nll[1] += 5 if replayed[1] else 0  # replay is hard, and would raise the threshold
        nothing = torch.zeros(3, 8, dtype=torch.int64)
        batch = Batch(
            indices=range(3 * number, 3 * number + 3),
            tokens=nothing,
            labels=nothing,
            valid=valid,
            positions=nothing,
            documents=(8, 8, 8),
            reference=reference,
            source=torch.zeros(3, dtype=torch.int64),
            replayed=torch.tensor(replayed),
        )
        losses.append(nll)
        batches.append(batch)
    return losses, batches


@pytest.mark.parametrize("replayed", [[False, False, False], [False, True, False]])
@pytest.mark.parametrize("score", ["excess", "reference_loss"])
def test_a_share_of_the_new_tokens_lies_above_it(replayed, score):
    selection = Selection(k=0.4, reference="/unused", score=score)
    losses, batches = losses_of(1, replayed)
    scores, competing = [], 0
    for nll, batch in zip(losses, batches, strict=True):
        fresh = batch.valid & ~batch.replayed[:, None]
        competing += int(fresh.sum())
        own = nll * selection.use_nll - batch.reference / 1000
        scores += own[fresh & (batch.reference != REF_MISSING)].tolist()
    expected = sorted(scores, reverse=True)[int(0.4 * competing + 0.5) - 1]
    assert module.next_threshold(losses, batches, selection, None) == pytest.approx(expected, abs=1e-5)


def test_where_nothing_competed_the_last_one_stays():
    selection = Selection(k=0.4, reference="/unused")
    losses, batches = losses_of(1, [True, True, True])
    assert module.next_threshold(losses, batches, selection, 0.25) == 0.25
    assert module.next_threshold(losses, batches, selection, None) == math.inf  # there is none
