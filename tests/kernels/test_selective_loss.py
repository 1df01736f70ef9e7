import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.kernels.selective_loss import select_tokens, selective_linear_cross_entropy


def reference_selection(nll, reference, valid, k):
    """The definition, token by token, in Python's own arithmetic."""
    places = [i for i in range(len(nll)) if valid[i]]
    wanted = int(len(places) * k + 0.5)
    finite = [i for i in places if reference[i] == reference[i]]
    ranked = sorted(finite, key=lambda i: (-(nll[i] - reference[i]), i))
    return set(ranked[:wanted])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_selects_the_highest_excess_loss_and_breaks_ties_by_index(data):
    batch, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 24))
    numbers = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0])
    size = batch * length
    nll = data.draw(st.lists(numbers, min_size=size, max_size=size))
    reference = data.draw(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, float("nan")]), min_size=size, max_size=size)
    )
    valid = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    k = data.draw(st.sampled_from([0.1, 0.25, 0.5, 0.6, 0.9]))
    tensors = [torch.tensor(x).view(batch, length) for x in (nll, reference, valid)]

    flat = select_tokens(*tensors, k=k, scope="microbatch").flatten().tolist()
    assert {i for i, chosen in enumerate(flat) if chosen} == reference_selection(nll, reference, valid, k)

    rows = select_tokens(*tensors, k=k, scope="sequence").tolist()
    for row in range(batch):
        part = slice(row * length, (row + 1) * length)
        expected = reference_selection(nll[part], reference[part], valid[part], k)
        assert {i for i, chosen in enumerate(rows[row]) if chosen} == expected


def test_sequences_that_are_always_selected_do_not_compete():
    _, _, _, valid, reference = problem()
    nll = torch.rand(valid.shape, generator=torch.Generator().manual_seed(3)) * 5
    always = torch.tensor([[False], [True], [False]])
    selected = select_tokens(nll, reference, valid, k=0.6, always=always)
    assert torch.equal(selected[1], valid[1])
    others = select_tokens(nll[[0, 2]], reference[[0, 2]], valid[[0, 2]], k=0.6)
    assert torch.equal(selected[[0, 2]], others)


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
