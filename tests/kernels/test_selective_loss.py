import pytest
import torch
import torch.nn.functional as F

from perdure.kernels.selective_loss import selective_linear_cross_entropy


def problem(seed=0, batch=3, length=7, width=16, vocab=50, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, length, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, width, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, vocab, (batch, length), generator=generator)
    valid = torch.rand(batch, length, generator=generator) > 0.2
    reference = torch.rand(batch, length, generator=generator) * 4
    return hidden, weight, labels, valid, reference


@pytest.mark.parametrize("k", [0.3, 0.6, 1.0])
def test_gradients_are_those_of_cross_entropy_over_the_selected_tokens(k):
    hidden, weight, labels, valid, reference = problem()
    nll, selected = selective_linear_cross_entropy(
        hidden, weight, labels, valid=valid, reference_nll=reference, k=k, vocab_size=50
    )
    assert selected.sum() == int(valid.sum() * k + 0.5)
    grad_hidden, grad_weight = torch.autograd.grad((nll * selected).sum(), (hidden, weight))

    plain = F.cross_entropy((hidden @ weight.t()).flatten(0, 1), labels.flatten(), reduction="none").view_as(
        nll
    )
    expected = torch.autograd.grad((plain * selected).sum(), (hidden, weight))
    torch.testing.assert_close(nll.double(), plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_hidden, expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_weight, expected[1], rtol=1e-5, atol=1e-5)
    assert (grad_hidden[~selected] == 0).all()


def test_k_of_one_is_the_plain_loss_bit_for_bit():
    hidden, weight, labels, valid, reference = problem(dtype=torch.float32)
    outcomes = []
    for reference_nll in (reference, None):
        nll, selected = selective_linear_cross_entropy(
            hidden, weight, labels, valid=valid, reference_nll=reference_nll, k=1.0, vocab_size=50
        )
        outcomes.append((nll, *torch.autograd.grad((nll * selected).sum(), (hidden, weight))))
    assert all(torch.equal(*pair) for pair in zip(*outcomes))


def test_padded_vocabulary_gets_no_probability():
    hidden, weight, labels, valid, _ = problem()
    labels = labels.clamp(max=40)
    whole, _ = selective_linear_cross_entropy(hidden, weight[:41], labels, valid=valid, vocab_size=41)
    padded, _ = selective_linear_cross_entropy(hidden, weight, labels, valid=valid, vocab_size=41)
    torch.testing.assert_close(whole, padded, rtol=0, atol=0)


def test_no_token_selected_gives_no_gradient():
    hidden, weight, labels, valid, reference = problem()
    nll, selected = selective_linear_cross_entropy(
        hidden,
        weight,
        labels,
        valid=valid,
        reference_nll=torch.full_like(reference, torch.nan),
        k=0.5,
        vocab_size=50,
    )
    assert not selected.any()
    for gradient in torch.autograd.grad((nll * selected).sum(), (hidden, weight)):
        assert (gradient == 0).all()
