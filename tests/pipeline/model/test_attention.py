"""Attention inside packed documents: what is kept apart, against a mask over the whole sequence."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.model.attention import document_attention, document_lengths

EOS = 0


def mask_of(documents, batch, length):
    number = torch.arange(len(documents)).repeat_interleave(torch.tensor(documents)).view(batch, length)
    return ((number[:, :, None] == number[:, None, :]) & torch.ones(length, length).tril().bool())[:, None]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([5, 5, EOS, 5, 5], (2, 3)),
        ([EOS, 5, 5, 5, EOS], (4, 1)),
        ([5, EOS, EOS, 5, 5], (1, 1, 3)),
        ([5, EOS, EOS, EOS, EOS], (1, 3, 1)),
        ([EOS, EOS, EOS, EOS, EOS], (4, 1)),
        ([5, 5, 5, 5, 5], (5,)),
    ],
)
def test_an_end_of_sequence_token_opens_a_document_and_padding_is_one(row, expected):
    assert document_lengths(torch.tensor([row]), EOS) == expected
    assert document_lengths(torch.tensor([row, [5] * 5]), EOS) == (*expected, 5)


@given(st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=1, max_size=3))
def test_lengths_are_those_of_the_runs_that_begin_at_end_of_sequence(rows):
    tokens = torch.tensor(rows)
    documents = document_lengths(tokens, EOS)
    assert sum(documents) == tokens.numel()
    number = (tokens == EOS).cumsum(1)
    same = (number[:, :, None] == number[:, None, :]) & torch.ones(9, 9).tril().bool()
    text = tokens != EOS  # rows of padding may see more padding
    assert torch.equal(mask_of(documents, *tokens.shape)[:, 0][text], same[text])


def test_values_and_gradients_are_those_under_a_mask():
    torch.manual_seed(0)
    batch, length, heads, groups, width = 2, 24, 4, 2, 8
    documents = (1, 10, 13, 24)
    packed = [torch.randn(batch * length, n, width, requires_grad=True) for n in (heads, groups, groups)]
    whole = [x.detach().view(batch, length, -1, width).transpose(1, 2).requires_grad_() for x in packed]
    expected = F.scaled_dot_product_attention(
        *whole, attn_mask=mask_of(documents, batch, length), enable_gqa=True
    )
    found = document_attention(*packed, documents)
    assert found.is_contiguous()  # the trainer takes views
    grad = torch.randn_like(found)
    found.backward(grad)
    expected.transpose(1, 2).flatten(0, 1).backward(grad)
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(0, 1))
    for left, right in zip(packed, whole):
        torch.testing.assert_close(left.grad, right.grad.transpose(1, 2).flatten(0, 1))
