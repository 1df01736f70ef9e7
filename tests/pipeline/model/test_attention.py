"""Attention inside packed documents: what is kept apart, against a mask over the whole sequence."""

import torch
import torch.nn.functional as F

from perdure.pipeline.model.attention import document_attention
from perdure.pipeline.model.documents import documents_of


def mask_of(documents, batch, length):
    number = torch.arange(len(documents)).repeat_interleave(torch.tensor(documents)).view(batch, length)
    return ((number[:, :, None] == number[:, None, :]) & torch.ones(length, length).tril().bool())[:, None]


def test_values_and_gradients_are_those_under_a_mask():
    torch.manual_seed(0)
    batch, length, heads, groups, width = 2, 24, 4, 2, 8
    documents = (1, 10, 13, 24)
    packed = [torch.randn(batch * length, n, width, requires_grad=True) for n in (heads, groups, groups)]
    whole = [x.detach().view(batch, length, -1, width).transpose(1, 2).requires_grad_() for x in packed]
    expected = F.scaled_dot_product_attention(
        *whole, attn_mask=mask_of(documents, batch, length), enable_gqa=True
    )
    found = document_attention(*packed, documents_of(documents, torch.device("cpu")))
    assert found.is_contiguous()  # the trainer takes views
    grad = torch.randn_like(found)
    found.backward(grad)
    expected.transpose(1, 2).flatten(0, 1).backward(grad)
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(0, 1))
    for left, right in zip(packed, whole):
        torch.testing.assert_close(left.grad, right.grad.transpose(1, 2).flatten(0, 1))
