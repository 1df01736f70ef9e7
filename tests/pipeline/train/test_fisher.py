"""The Fisher information for anchors beside autograd, sample by sample, and by moments."""

from types import SimpleNamespace

import pytest
import torch
from support import on_rank
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.model.optimizer import FusedAdamW
from perdure.pipeline.train.fisher import of_moments


def test_moments_of_one_gradient_again_and_again_are_its_square():
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = FusedAdamW([weight], betas=(0.9, 0.95))
    for _ in range(7):
        weight.grad = torch.tensor([2.0, -3.0, 0.0])
        optimizer.step()
    part = SimpleNamespace(optimizer=optimizer)
    (found,) = of_moments(SimpleNamespace(chained_optimizers=[part], param_groups=optimizer.param_groups))
    assert found.tolist() == pytest.approx([4.0, 9.0, 0.0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_samples_are_squared_one_by_one(tmp_path, tied):
    """Batch gradients would cancel one another; with 9 samples the last are of an epoch's padded end."""
    directory = prepare_version(tiny_recipe(tmp_path, model__tie_embeddings=tied))
    largest, difference = on_rank("fisher_by_hand", directory, 9, script="step_ranks.py")
    assert largest > 1e-3 and difference < 1e-5 * largest


@pytest.mark.slow
def test_replicas_square_samples_of_their_own_and_add_up(tmp_path):
    parallel = {"data_parallel": 2, "distributed_optimizer": False}
    directory = prepare_version(tiny_recipe(tmp_path, parallel=parallel))
    largest, difference = on_rank("fisher_by_hand", directory, 4, script="step_ranks.py", ranks=2)
    assert largest > 1e-3 and difference < 1e-5 * largest
