"""Preference optimisation by hand: losses, weights and what is told of single pairs, and what stands beside them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from perdure.kernels import SelectiveLoss
from perdure.pipeline.core.shards import REF_MISSING
from perdure.pipeline.recipe import Preference
from perdure.pipeline.train.batch import Sample, collate, on_device
from perdure.pipeline.train.counts import Counts
from perdure.pipeline.train.objectives import preference
from perdure.pipeline.train.objectives.preference import PreferenceOptimization

CPU = torch.device("cpu")
SIDES = np.array([[0, 1, 1, 0, -1, 0, 0, 0], [0, 1, 0, -1, -1, -1, -1, 0]], np.int8)
"""Two samples of a pair each: answers of 2 and 1 labels, and of 1 and 4."""


def objective_of(keys=("pairs",), **settings) -> PreferenceOptimization:
    return PreferenceOptimization(settings=Preference(type="preference", **settings), keys=keys)


def pairs(reference: float = 2.0, sources=None):
    """The two samples, every label of which costs the reference so many nats."""
    units = np.where(SIDES != 0, round(1000 * reference), REF_MISSING).astype(np.int32)
    documents = [(3, 3, 2), (2, 5, 1)]
    samples = [
        Sample(np.arange(9), own, 7, lengths, sides != 0, sides)
        for own, lengths, sides in zip(units, documents, SIDES, strict=True)
    ]
    return on_device(collate(range(2), samples, sources), CPU)


def plain(source: int, labels: int, replayed: bool = False):
    """A micro-batch of two samples without pairs, of so many labels each."""
    sample = Sample(np.arange(9), np.full(8, REF_MISSING, np.int32), labels, (8,))
    return on_device(collate(range(2), [sample] * 2, [source] * 2, [replayed] * 2), CPU)


def losses(chosen: float, rejected: float):
    """Losses of labels of chosen and rejected answers, in nats; those of other tokens are large."""
    sides = torch.from_numpy(SIDES)
    return torch.where(sides > 0, chosen, torch.where(sides < 0, rejected, 99.0))


def told(objective, batch, nll) -> dict[str, float]:
    """What a step of one micro-batch comes to by its counts."""
    keys = len(objective.keys)
    loss = objective.loss_options(batch)["weigh"](nll) * nll
    _, number, found = objective.reduce(SelectiveLoss(loss, batch.valid, nll), batch, keys)
    sums = found["sums"].tolist()
    counts = Counts(
        sums[:keys], sums[keys : 2 * keys], 0, 0, 0, "", "", sums={"pairs": found["pairs"].tolist()}
    )
    assert number == found["pairs"][0]
    return objective.scalars(counts)


def test_as_the_reference_the_loss_is_ln_2_and_weights_are_half_of_beta():
    objective, batch = objective_of(), pairs()
    weights = objective.loss_options(batch)["weigh"](losses(2.0, 2.0))
    assert torch.allclose(weights, 0.05 * torch.from_numpy(SIDES), atol=1e-8)
    found = told(objective, batch, losses(2.0, 2.0))
    assert found["loss"] == found["preference"] == pytest.approx(0.693147, abs=1e-6)
    assert (found["pairs"], found["rewards/accuracies"], found["rewards/margins"]) == (2, 0.0, 0.0)
    assert (found["logps/chosen"], found["logps/rejected"]) == (-3.0, -5.0)


@pytest.mark.parametrize(
    ("difference", "loss", "weight"), [(2, 0.598139, 0.045017), (-2, 0.798139, 0.054983)]
)
def test_a_log_ratio_difference_of_two_nats(difference, loss, weight):
    """The first pair: two labels of the chosen answer are likelier by half the difference each."""
    objective, batch = objective_of(), pairs()
    batch = replace(batch, sides=batch.sides * torch.tensor([[1], [0]], dtype=torch.int8))
    batch = replace(batch, valid=batch.sides != 0)
    nll = losses(2.0 - difference / 2, 2.0)
    weights = objective.loss_options(batch)["weigh"](nll)
    assert torch.allclose(weights, weight * batch.sides, atol=1e-6)
    found = told(objective, batch, nll)
    assert found["loss"] == pytest.approx(loss, abs=1e-6) and found["pairs"] == 1
    assert found["rewards/chosen"] == found["rewards/margins"] == pytest.approx(0.1 * difference)
    assert (found["rewards/rejected"], found["rewards/accuracies"]) == (0.0, float(difference > 0))


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_weights_are_the_derivative_of_the_loss_by_each_label(method):
    objective, batch = objective_of(method=method, beta=0.3), pairs()
    generator = torch.Generator().manual_seed(0)
    nll = (4 * torch.rand(2, 8, generator=generator, dtype=torch.float64)).requires_grad_()
    ratios = torch.where(batch.sides != 0, 2.0 - nll, 0.0)
    total = 0.0
    for row, sides in zip(ratios, batch.sides, strict=True):
        if method == "dpo":
            total = total - torch.nn.functional.logsigmoid(
                0.3 * (row[sides > 0].sum() - row[sides < 0].sum())
            )
        else:
            total = total + (row[sides > 0].mean() - row[sides < 0].mean() - 1 / 0.6) ** 2
    (expected,) = torch.autograd.grad(total, nll)
    weights = objective.loss_options(batch)["weigh"](nll.detach().float())
    assert torch.allclose(weights, expected.float(), atol=1e-6)
    assert told(objective, batch, nll.detach().float())["preference"] == pytest.approx(float(total) / 2)


KEYS = ("pairs", "general", "near", "replay/old", "replay/older")


def beside(monkeypatch, retain, batches, keys=KEYS):
    """The objective, and the micro-batches as they are prepared, on one rank."""
    monkeypatch.setattr(preference.mpu, "is_pipeline_last_stage", lambda: True)
    monkeypatch.setattr(preference, "add_replicas", lambda counts: None)
    objective = objective_of(keys, retain=retain)
    return objective, list(objective.prepare(iter(batches), pytest.fail))


def test_contextual_distillation_beside_the_pairs(monkeypatch):
    """C3PO: ln 2 + .2 x 2 + .1 x 1, and means over labels of what is retained, whatever their number."""
    retain = {"general": 0.2, "near": 0.1}
    batches = [pairs(), plain(1, 5), plain(2, 3)]
    objective, prepared = beside(monkeypatch, retain, batches, KEYS[:3])
    nlls = [losses(2.0, 2.0), torch.full((2, 8), 2.0), torch.full((2, 8), 1.0)]
    weights = [objective.loss_options(batch)["weigh"](nll) for batch, nll in zip(prepared, nlls, strict=True)]
    # Megatron divides by the two pairs.
    assert float((weights[1] * nlls[1] * prepared[1].valid).sum()) / 2 == pytest.approx(0.4)
    assert float((weights[2] * nlls[2] * prepared[2].valid).sum()) / 2 == pytest.approx(0.1)
    assert torch.allclose(weights[0], 0.05 * torch.from_numpy(SIDES), atol=1e-8)
    counts = Counts([8, 10, 6], [16, 20, 6], 0, 0, 0, "", "", sums={"pairs": [2, 2 * math.log(2)] + [0] * 6})
    assert objective.loss(counts) == pytest.approx(1.193147, abs=1e-6)


def test_without_weights_it_is_the_pairs_alone_and_replay_has_the_weight_one(monkeypatch):
    batches = [pairs(), plain(1, 5), plain(3, 4, True), plain(4, 2, True)]
    _, prepared = beside(monkeypatch, {"general": 0.0, "near": 0.0}, batches)
    assert not prepared[1].label_weight.any()
    # 12 labels are replayed, of two places alike, beside two pairs.
    assert (
        prepared[2].label_weight.tolist()
        == prepared[3].label_weight.tolist()
        == [[pytest.approx(2 / 12)]] * 2
    )
    only = objective_of(("pairs",))
    assert only.prepare(found := iter(batches), pytest.fail) is found


def test_a_batch_without_pairs_has_the_mean_of_the_rest(monkeypatch):
    objective, (batch,) = beside(monkeypatch, {"general": 0.2, "near": 0.1}, [plain(1, 5)])
    assert batch.label_weight.tolist() == [[pytest.approx(0.02)]] * 2
    nll = torch.full((2, 8), 3.0)
    loss = objective.loss_options(batch)["weigh"](nll) * nll
    total, number, _ = objective.reduce(SelectiveLoss(loss, batch.valid, nll), batch, len(KEYS))
    assert (float(total), int(number)) == (pytest.approx(0.6), 0)
