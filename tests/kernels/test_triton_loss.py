"""Triton's kernels by tensor descriptors and in parts, against the same by pointers: the same bits."""

import pytest
import torch

from perdure.kernels import linear_nll, selective_linear_cross_entropy, tiles, triton_loss

POINTERS = {"BLOCK_N": 16, "BLOCK_V": 16, "BLOCK_D": 32, "PARTS": 1, "TMA": False, "GROUP": 16}
OTHERS = [{"PARTS": 2, "GROUP": 2}, {"PARTS": 4, "TMA": True, "GROUP": 2}]
TOKENS, COLUMNS = 37, 120
"""3 blocks of rows and a tail of columns; 2 splits of 64 columns with every number of parts."""


def results(dtype: torch.dtype, **options) -> list[torch.Tensor]:
    """Losses, gradients and entropies of a problem that no block divides but for what descriptors ask for.

    Operands are quarters, so that logits are exact whatever the order in which a library adds products.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return (2 * torch.randn(*shape, generator=generator)).round().div(4).to(dtype)

    hidden, weight, their_hidden, their_weight = (normal(*x, 40) for x in ((1, TOKENS), (130,)) * 2)
    labels = torch.randint(0, COLUMNS, (1, TOKENS), generator=generator)
    if options.pop("teacher", False):
        options |= {"teacher_hidden": their_hidden, "teacher_weight": their_weight}
        options["kl_weight"] = torch.ones(1, TOKENS)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    options |= {"valid": torch.ones(1, TOKENS, dtype=torch.bool), "vocab_size": COLUMNS, "impl": "triton"}
    found = selective_linear_cross_entropy(hidden, weight, labels, **options)
    scored = linear_nll(
        hidden.detach(), weight.detach(), labels, vocab_size=COLUMNS, entropy=True, impl="triton"
    )
    return [found.loss, *torch.autograd.grad(found.loss.sum(), (hidden, weight)), *scored]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"softcap": 5.0, "z_loss": 0.1}, {"cache": 8_000}, {"teacher": True}]
)
def test_descriptors_and_parts_change_no_bit(monkeypatch, dtype, options):
    monkeypatch.setattr(triton_loss, "PROGRAMS", 6)
    monkeypatch.setattr(tiles, "INTERPRETED", POINTERS)
    expected = results(dtype, **options)
    for other in OTHERS:
        monkeypatch.setattr(tiles, "INTERPRETED", POINTERS | other)
        assert all(map(torch.equal, results(dtype, **options), expected)), other
