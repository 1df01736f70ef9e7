"""Random weights: their spread by theory, and that seed and name decide each tensor."""

import math

import pytest
import torch

from perdure.pipeline.model.shape import Shape, tensor_sizes
from perdure.pipeline.model.weights import random_weights

LAYERS, HIDDEN, FFN, VOCABULARY, STD = 8, 256, 512, 1000, 0.05
SHAPE = Shape(LAYERS, HIDDEN, FFN, 8, 4, 32, False, 1e4, 1e-5)
NAMES = list(tensor_sizes(SHAPE, VOCABULARY))


def spread(tensor: torch.Tensor, std: float) -> None:
    """Mean 0 and this deviation, within five standard errors; a normal distribution has 68.27% within one deviation."""
    number = tensor.numel()
    assert abs(tensor.mean().item()) < 5 * std / math.sqrt(number)
    assert tensor.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * number))
    inside = (tensor.abs() < std).double().mean().item()
    assert inside == pytest.approx(0.6827, abs=5 * math.sqrt(0.6827 * 0.3173 / number))


@pytest.mark.parametrize("name", [name for name in NAMES if "layers.3." in name or "layers" not in name])
def test_projections_into_the_residual_stream_are_narrower_by_the_root_of_twice_the_layers(name):
    """std, and a quarter of it (1 / sqrt(2 x 8)) where 16 of them are added up; norms are 1."""
    tensor = random_weights(SHAPE, VOCABULARY, STD, 7)(name)
    assert tuple(tensor.shape) == tensor_sizes(SHAPE, VOCABULARY)[name]
    if "norm" in name:
        assert bool((tensor == 1).all())
    else:
        spread(tensor, STD / 4 if name.endswith(("o_proj.weight", "down_proj.weight")) else STD)


def test_seed_and_name_decide_each_tensor():
    read, again, other = (random_weights(SHAPE, VOCABULARY, STD, seed) for seed in (7, 7, 8))
    names = [name for name in NAMES if "norm" not in name]
    own = {name: read(name).flatten()[: HIDDEN * 100].double() for name in names}
    for name in names:
        assert torch.equal(read(name), again(name))
        # Independent numbers correlate by chance alone, 1 / sqrt(25,600) = 0.006.
        mixed = torch.stack([own[name], other(name).flatten()[: HIDDEN * 100].double()])
        assert abs(torch.corrcoef(mixed)[0, 1].item()) < 0.04
    among = torch.corrcoef(torch.stack(list(own.values()))) - torch.eye(len(own))
    assert among.abs().max().item() < 0.04


def test_rows_of_a_larger_vocabulary_begin_as_those_of_a_smaller_one():
    """So that the vocabulary's padding, which layouts do not share with the recipe, changes nothing."""
    few, more = (random_weights(SHAPE, rows, STD, 7)("model.embed_tokens.weight") for rows in (640, 1024))
    assert torch.equal(few, more[:640])
