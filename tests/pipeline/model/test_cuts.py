"""What each tensor-parallel rank holds of a tensor: rows that belong together, and all of it together."""

import pytest
import torch

from perdure.pipeline.model.shape import Shape
from perdure.pipeline.model.weights import cut, join, rule_of, split, uncut

SHAPE = Shape(2, 16, 24, 8, 4, 4, False, 1e4, 1e-5)
NAMES = {
    "decoder.layers.0.self_attention.linear_qkv.weight": [(32, 16), (16, 16), (16, 16)],
    "decoder.layers.0.self_attention.linear_proj.weight": [(16, 32)],
    "decoder.layers.0.mlp.linear_fc1.weight": [(24, 16), (24, 16)],
    "decoder.layers.0.mlp.linear_fc2.weight": [(16, 24)],
    "decoder.final_layernorm.weight": [(16,)],
    "embedding.word_embeddings.weight": [(64, 16)],
}


def tensors_of(name: str) -> list[torch.Tensor]:
    return [
        torch.randn(size, generator=torch.Generator().manual_seed(n)) for n, size in enumerate(NAMES[name])
    ]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_parts_make_the_whole(name, size):
    rule, tensors = rule_of(name, SHAPE), tensors_of(name)
    whole = join(rule, tensors, SHAPE)
    parts = cut(rule, whole, size)
    assert len(parts) == size
    assert torch.equal(uncut(rule, parts), whole)
    if len(tensors) > 1:
        assert all(map(torch.equal, split(rule, whole, SHAPE), tensors))


@pytest.mark.parametrize("size", [2, 4])
def test_a_ranks_share_of_an_mlp_computes_its_share_of_the_output(size):
    """Gates with what they gate, and the columns that take them in: the ranks' outputs add up to the whole MLP's."""
    (gate, up), (down,) = (tensors_of(f"decoder.layers.0.mlp.linear_fc{n}.weight") for n in (1, 2))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(9))
    expected = (torch.nn.functional.silu(x @ gate.t()) * (x @ up.t())) @ down.t()
    fc1, fc2 = (rule_of(f"decoder.layers.0.mlp.linear_fc{n}.weight", SHAPE) for n in (1, 2))
    firsts = cut(fc1, join(fc1, [gate, up], SHAPE), size)
    seconds = cut(fc2, down, size)
    found = 0
    for first, second in zip(firsts, seconds, strict=True):
        own_gate, own_up = (x @ first.t()).chunk(2, dim=1)
        found = found + (torch.nn.functional.silu(own_gate) * own_up) @ second.t()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_has_whole_groups_of_heads(size):
    """Two query heads, their key and their value stand together, of four groups a rank has 4 / size."""
    name = "decoder.layers.0.self_attention.linear_qkv.weight"
    rule, (query, key, value) = rule_of(name, SHAPE), tensors_of(name)
    parts = cut(rule, join(rule, [query, key, value], SHAPE), size)
    for rank, part in enumerate(parts):
        for number, rows in enumerate(part.split(16)):
            group = rank * (4 // size) + number
            assert torch.equal(rows[:8], query[8 * group : 8 * group + 8])
            assert torch.equal(rows[8:12], key[4 * group : 4 * group + 4])
            assert torch.equal(rows[12:], value[4 * group : 4 * group + 4])
