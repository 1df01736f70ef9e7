"""The loss by blocks of the vocabulary: few operations, and no bit that depends on how large the blocks are."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perdure.kernels import chunked
from perdure.kernels.inputs import LossInputs, WeightGradient

THREADED = 32_768
"""Elements from which torch divides an operation among threads (ATen's `GRAIN_SIZE`)."""


class Threaded(TorchDispatchMode):
    """Counts the operations that threads share, views left out."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        tensors = [x for x in (*args, *(kwargs or {}).values(), found) if isinstance(x, torch.Tensor)]
        large = any(tensor.numel() >= THREADED for tensor in tensors)
        self.number += large and not function.is_view and function.overloadpacket != torch.ops.aten.empty
        return found


def both_passes(tokens=96, width=16, vocab=5000, softcap=None, entropy=False, dtype=torch.float32):
    """Statistics of all tokens, and gradients of the first two thirds of them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(tokens, width, generator=generator).to(dtype)
    weight = torch.randn(vocab + 40, width, generator=generator).to(dtype)
    labels = torch.randint(0, vocab, (tokens,), generator=generator)
    found = chunked.statistics(LossInputs(rows, weight, labels, vocab, softcap), entropy)
    few = tokens * 2 // 3
    maximum, total = found[0, :few], found[1, :few]
    grad, grad_weight = torch.linspace(0, 1, few), torch.empty_like(weight)
    selected = LossInputs(rows[:few], weight, labels[:few], vocab, softcap)
    into = WeightGradient(grad_weight, accumulate=False)
    return found, chunked.gradients(selected, maximum, total.log(), grad, None, into), grad_weight


@pytest.mark.parametrize(
    "options", [{}, {"softcap": 5.0, "entropy": True}, {"dtype": torch.bfloat16}, {"vocab": 100}]
)
def test_how_many_logits_are_held_changes_no_bit(options, monkeypatch):
    monkeypatch.setitem(chunked.ADDED, "cpu", 20_000)
    found = []
    for held in (1, 50_000, 1 << 17, 1 << 24):
        monkeypatch.setitem(chunked.HELD, "cpu", held)
        found.append(both_passes(**options))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_threads_wait_for_each_other_a_few_times_a_block():
    """2,048 tokens, half of SmolLM2's vocabulary: with blocks of what fits near a core there were 580 operations."""
    with Threaded() as threaded:
        both_passes(tokens=2048, width=8, vocab=24_576)
    # 3 blocks of all tokens, 3 of two thirds of them, whose part of the rows' gradient is added up in 32 parts.
    assert threaded.number <= 3 * 8 + 3 * 10 + 32
