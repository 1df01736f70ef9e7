"""Losses and weights of forgotten documents: exact values, derivatives, and a batch's gradient against autograd."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from perdure.kernels import selective_linear_cross_entropy
from perdure.pipeline.core.shards import REF_MISSING
from perdure.pipeline.recipe import Forget
from perdure.pipeline.train.batch import Sample, collate, on_device
from perdure.pipeline.train.objectives.forget import Forgetting, forget_loss
from perdure.pipeline.train.objectives.lm import LanguageModeling

CPU = torch.device("cpu")


def section(method, **changes):
    return Forget(type="forget", source="a", method=method, **changes)


def of_document(section, nll, labels, reference=0.0):
    numbers = (torch.tensor([float(each)], dtype=torch.float64) for each in (nll, labels, reference))
    loss, derivative = forget_loss(section, *numbers)
    return loss.item(), derivative.item()


@pytest.mark.parametrize(
    ("ratio", "loss", "weight"),
    [(0, 13.862944, 1.0), (-3, 11.087105, 0.851115), (-10, 6.265234, 0.537883), (-50, 0.134307, 0.013386)],
)
def test_npo(ratio, loss, weight):
    """r is the log-likelihood less the parent's; with r = 0 the gradient is that of summed gradient ascent."""
    found = of_document(section("npo"), 20 - ratio, 7, 20)
    assert found == (pytest.approx(loss, abs=1e-6), pytest.approx(-weight, abs=1e-6))


def test_npo_becomes_gradient_ascent_as_beta_falls():
    for ratio in (-3, 0, 2):
        assert of_document(section("npo", beta=1e-6), 20 - ratio, 7, 20)[1] == pytest.approx(-1, abs=1e-5)


def test_simnpo_and_gradient_ascent():
    loss, weight = of_document(section("simnpo"), 0.5 * 8, 8)
    assert loss == pytest.approx(0.0445362, abs=1e-7)
    assert weight == pytest.approx(-2 / 8 / (1 + math.exp(4.5 * 0.5)), abs=1e-12)
    assert of_document(section("graddiff"), 12, 8) == (-1.5, -0.125)
    assert [section(method).factor for method in ("graddiff", "npo", "simnpo")] == [1.0, 1.0, 0.125]


def micro_batch(sources, reference=None):
    """Two samples of 12 tokens: documents of 5 and 4 labels and padding, and of 7 and 5."""
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            rng.integers(1, 30, 13),
            np.full(12, 900, np.int32) if reference is None else reference[row],
            valid,
            sizes,
        )
        for row, (valid, sizes) in enumerate([(9, (5, 4, 3)), (12, (7, 5))])
    ]
    return on_device(collate(range(2), samples, sources), CPU)


def through(objective, batch, seed=0):
    """Loss and gradient of a micro-batch that is the whole batch, divided as Megatron does; and what is counted."""
    torch.manual_seed(seed)
    hidden, weight = torch.randn(2, 12, 8, requires_grad=True), torch.randn(30, 8)
    output = selective_linear_cross_entropy(
        hidden, weight, batch.labels, vocab_size=30, **objective.loss_options(batch)
    )
    total, number, told = objective.reduce(output, batch, 2)
    (total / number).backward()
    nll = torch.nn.functional.cross_entropy(
        (hidden @ weight.T).view(-1, 30), batch.labels.reshape(-1), reduction="none"
    ).view(2, 12)
    return (total / number).item(), hidden, nll, told


@pytest.mark.parametrize("method", ["graddiff", "npo", "simnpo"])
def test_the_gradient_of_a_batch_is_that_of_its_objective(method):
    """Forgotten are the documents of the second sample; all else is retained."""
    settings = section(method, gamma=0.7)
    missing = [
        np.full(12, REF_MISSING, np.int32),
        np.full(12, 900, np.int32),
    ]  # only of the forgotten are there scores
    batch = replace(micro_batch([0, 1], missing), amounts=torch.tensor([21.0, 9.0, 2.0], dtype=torch.float64))
    _, hidden, nll, told = through(Forgetting(section=settings, number=1), batch)
    forget = torch.stack([nll[1, :7].sum(), nll[1, 7:].sum()]).double()
    sizes = torch.tensor([7.0, 5.0], dtype=torch.float64)
    losses, _ = forget_loss(settings, forget, sizes, 0.9 * sizes)
    objective = 0.7 * losses.mean() + nll[0, :9].double().mean()
    (expected,) = torch.autograd.grad(objective, hidden)
    assert torch.allclose(hidden.grad, expected, atol=1e-6)
    assert told["forgetting"].tolist() == pytest.approx([losses.sum().item(), 2, forget.sum().item(), 12])


def test_what_a_step_tells_is_the_objective_and_its_parts():
    from types import SimpleNamespace

    objective = Forgetting(section=section("npo", gamma=0.5), number=1)
    counts = SimpleNamespace(
        tokens=[9.0, 12.0], loss=[18.0, 30.0], sums={"forgetting": [26.0, 2.0, 30.0, 12.0]}
    )
    assert objective.scalars(counts) == {
        "loss": 0.5 * 13 + 2,
        "forget_loss": 13.0,
        "forget_cross_entropy": 2.5,
        "retain_loss": 2.0,
    }
    assert objective.loss(counts) == 8.5
    empty = SimpleNamespace(tokens=[9.0, 0.0], loss=[18.0, 0.0], sums={"forgetting": [0.0] * 4})
    assert objective.scalars(empty) == {
        "loss": 2.0,
        "forget_loss": None,
        "forget_cross_entropy": None,
        "retain_loss": 2.0,
    }


def test_a_batch_without_forgotten_documents_is_trained_on_as_ever_bit_for_bit():
    batch = replace(micro_batch([0, 0]), amounts=torch.tensor([21.0, 21.0, 0.0], dtype=torch.float64))
    loss, hidden, _, told = through(Forgetting(section=section("npo"), number=1), batch)
    plain, expected, _, same = through(LanguageModeling(), batch)
    assert loss == plain and torch.equal(hidden.grad, expected.grad)
    assert all(torch.equal(told[name], value) for name, value in same.items())
