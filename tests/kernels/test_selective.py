"""The loss by every implementation against its definition in float64; Triton runs in its interpreter without a GPU."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_ranks import on_ranks

from perdure.kernels import chunked, linear_nll, selective_linear_cross_entropy, triton_loss
from perdure.kernels.inputs import WeightGradient

IMPLS = ["torch", "chunked", "triton"]
each_impl = pytest.mark.parametrize("impl", IMPLS)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks so small that even these problems have several."""
    monkeypatch.setitem(chunked.ADDED, "cpu", 1)
    monkeypatch.setitem(chunked.HELD, "cpu", 500)
    monkeypatch.setattr(chunked, "COLUMNS", 8)
    monkeypatch.setattr(triton_loss, "GRADIENT_BYTES", 4096)
    monkeypatch.setattr(triton_loss, "PROGRAMS", 4)


def problem(seed=0, batch=3, length=7, width=16, vocab=50, dtype=torch.float32, scale=0.5, padding=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, length, width, generator=generator).to(dtype).requires_grad_()
    weight = (scale * torch.randn(vocab + padding, width, generator=generator)).to(dtype).requires_grad_()
    labels = torch.randint(0, vocab, (batch, length), generator=generator)
    valid = torch.rand(batch, length, generator=generator) > 0.2
    reference = torch.rand(batch, length, generator=generator) * 4
    upstream = torch.rand(batch, length, generator=generator) + 0.5
    return hidden, weight, labels, valid, reference, upstream


def definition(hidden, weight, labels, vocab_size, softcap=None, z_loss=0.0, token_weight=None):
    """The loss of every token, in float64, by the shortest way."""
    logits = hidden.double() @ weight[:vocab_size].double().t()
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    loss = nll + z_loss * logits.logsumexp(-1) ** 2
    return nll, loss if token_weight is None else loss * token_weight


def gap(found, expected):
    """Norm of the difference, relative to the expected norm."""
    return float((found.double() - expected).norm() / expected.norm().clamp_min(1e-30))


def check(arguments, tolerance, **options):
    """Losses, selection and gradients against the definition; returns the result."""
    hidden, weight, labels, valid, reference, upstream = arguments
    vocab_size = options.pop("vocab_size", len(weight))
    found = selective_linear_cross_entropy(
        hidden, weight, labels, valid=valid, reference_nll=reference, vocab_size=vocab_size, **options
    )
    gradients = torch.autograd.grad((found.loss * found.selected * upstream).sum(), (hidden, weight))
    extra = {key: options[key] for key in ("softcap", "z_loss", "token_weight") if key in options}
    nll, loss = definition(hidden, weight, labels, vocab_size, **extra)
    expected = torch.autograd.grad((loss * found.selected * upstream).sum(), (hidden, weight))
    assert gap(found.nll, nll) < 1e-5
    assert gap(found.loss, loss) < 1e-5
    for ours, theirs, tensor in zip(gradients, expected, (hidden, weight)):
        assert ours.dtype == tensor.dtype
        assert gap(ours, theirs) < tolerance
    assert (gradients[0][~found.selected] == 0).all()
    assert (gradients[1][vocab_size:] == 0).all()
    return found


@each_impl
@settings(max_examples=12)
@given(data=st.data())
def test_gradients_are_those_of_cross_entropy_over_the_selected_tokens(impl, data):
    """Any shape: no dimension is a multiple of a block."""
    dtype, tolerance = data.draw(st.sampled_from([(torch.float32, 1e-5), (torch.bfloat16, 1e-2)]))
    arguments = problem(
        seed=data.draw(st.integers(0, 99)),
        batch=data.draw(st.integers(1, 3)),
        length=data.draw(st.integers(1, 13)),
        width=data.draw(st.integers(1, 70)),
        vocab=data.draw(st.integers(2, 150)),
        padding=data.draw(st.integers(0, 40)),
        dtype=dtype,
    )
    k = data.draw(st.sampled_from([0.3, 0.6, 1.0]))
    vocab_size = int(arguments[2].max()) + 1
    found = check(arguments, tolerance, k=k, impl=impl, vocab_size=vocab_size)
    assert found.selected.sum() == int(arguments[3].sum() * k + 0.5)


@each_impl
def test_weights_softcap_and_z_loss(impl):
    arguments = problem(vocab=70, scale=2.0)
    weight = torch.rand(3, 7, generator=torch.Generator().manual_seed(1))
    check(arguments, 1e-5, k=0.6, impl=impl, token_weight=weight)
    check(arguments, 1e-5, k=0.6, impl=impl, softcap=5.0, z_loss=0.01, token_weight=weight)
    check(problem(vocab=70, scale=2.0, padding=30), 1e-5, k=0.6, impl=impl, vocab_size=70, softcap=5.0)


@each_impl
def test_logits_that_are_all_negative_or_all_large(impl):
    hidden, weight, labels, valid, reference, _upstream = problem(vocab=70)
    for offset, step, tolerance in ((-30.0, 2e-6, 1e-5), (1e4, 1e-3, 1e-2)):
        # A column of ones times a column of the offset, near which float32 has the given step.
        shifted = torch.cat([hidden.detach(), torch.ones(3, 7, 1)], 2).requires_grad_()
        columns = torch.cat([weight.detach(), torch.full((70, 1), offset)], 1).requires_grad_()
        found = selective_linear_cross_entropy(
            shifted, columns, labels, valid=valid, reference_nll=reference, k=0.6, vocab_size=70, impl=impl
        )
        gradient, *_ = torch.autograd.grad((found.loss * found.selected).sum(), columns)
        nll, _ = definition(shifted, columns, labels, 70)
        expected, *_ = torch.autograd.grad((nll * found.selected).sum(), columns)
        assert (found.nll - nll).abs().max() < 3 * step
        # The offset's own column holds nothing but cancelled terms.
        assert gap(gradient[:, :-1], expected[:, :-1]) < tolerance


@each_impl
def test_nothing_selected_gives_no_gradient(impl):
    hidden, weight, labels, valid, reference, _ = problem()
    loss, selected, *_ = selective_linear_cross_entropy(
        hidden,
        weight,
        labels,
        valid=valid,
        reference_nll=torch.full_like(reference, torch.nan),
        k=0.5,
        vocab_size=50,
        impl=impl,
    )
    assert not selected.any()
    for gradient in torch.autograd.grad((loss * selected).sum(), (hidden, weight)):
        assert (gradient == 0).all()


@each_impl
def test_a_frozen_weight_costs_no_gradient_and_changes_no_bit_of_the_others(impl, monkeypatch):
    """Its blocks would be as large as the weight, and their products a third of the layer's work."""
    hidden, weight, labels, valid, reference, upstream = problem(vocab=70)
    totals, found = [], []
    taken = WeightGradient.take
    monkeypatch.setattr(
        WeightGradient, "take", lambda into, *block: totals.append(into.total) or taken(into, *block)
    )
    for own in (weight, weight.detach()):
        options = {"valid": valid, "reference_nll": reference, "k": 0.5, "vocab_size": 70, "impl": impl}
        loss = selective_linear_cross_entropy(hidden, own, labels, **options)
        found.append(torch.autograd.grad((loss.loss * loss.selected * upstream).sum(), hidden)[0])
    assert torch.equal(*found)
    assert impl == "torch" or (
        totals[0] is not None and totals[-1] is None and totals.count(None) * 2 == len(totals)
    )


@each_impl
def test_k_of_one_is_the_plain_loss_bit_for_bit_and_so_is_a_second_run(impl):
    hidden, weight, labels, valid, reference, upstream = problem(vocab=70)
    outcomes = []
    for reference_nll, selected in ((reference, None), (None, None), (reference, valid)):
        k = 0.5 if selected is not None else 1.0
        found = selective_linear_cross_entropy(
            hidden,
            weight,
            labels,
            valid=valid,
            reference_nll=reference_nll,
            k=k,
            selected=selected,
            vocab_size=70,
            impl=impl,
        )
        loss = (found.loss * found.selected * upstream).sum()
        outcomes.append((found.loss, found.selected, *torch.autograd.grad(loss, (hidden, weight))))
    for other in outcomes[1:]:
        assert all(torch.equal(*pair) for pair in zip(outcomes[0], other))
    assert torch.equal(outcomes[0][0], linear_nll(hidden, weight, labels, vocab_size=70, impl=impl))


def test_the_reference_is_torchs_cross_entropy_bit_for_bit():
    hidden, weight, labels, _valid, *_ = problem()
    nll = linear_nll(hidden, weight, labels, vocab_size=50, impl="torch")
    plain = F.cross_entropy((hidden @ weight.t()).flatten(0, 1), labels.flatten(), reduction="none")
    assert torch.equal(nll.flatten(), plain)


@each_impl
def test_strided_inputs_and_strided_gradients(impl):
    hidden, weight, labels, valid, reference, _ = problem(batch=4, length=6, width=20, vocab=70)
    strided = hidden.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    wide = torch.zeros(70, 33)
    wide[:, :20] = weight.detach()
    rows = wide[:, :20].requires_grad_()
    results = []
    for x, w in ((hidden, weight), (strided, rows)):
        found = selective_linear_cross_entropy(
            x, w, labels, valid=valid, reference_nll=reference, k=0.6, vocab_size=70, impl=impl
        )
        # The sum's gradient is one number, expanded with strides of 0.
        results.append(torch.autograd.grad(found.loss.t().flatten()[::2].sum() + found.loss.sum(), (x, w)))
    for left, right in zip(*results):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


@each_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_accumulations_into_a_tied_weights_main_grad(impl, dtype):
    """As Megatron does it: `main_grad` has both gradients of the head, autograd's `grad` that of the embedding."""
    _, weight, _, valid, reference, _ = problem(vocab=70, dtype=dtype)
    weight = torch.nn.Parameter(weight.detach())
    weight.main_grad = torch.zeros(70, 16)
    weight.grad_added_to_main_grad, weight.zero_out_wgrad = False, True
    copy = weight.detach().double().requires_grad_()
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        tokens, labels = torch.randint(0, 70, (2, 3, 7), generator=generator)
        found = selective_linear_cross_entropy(
            F.embedding(tokens, weight),
            weight,
            labels,
            valid=valid,
            reference_nll=reference,
            k=0.6,
            vocab_size=70,
            main_grad=weight.main_grad,
            impl=impl,
        )
        (found.loss * found.selected).sum().backward()
        nll, _ = definition(F.embedding(tokens, copy), copy, labels, 70)
        (nll * found.selected).sum().backward()
    assert weight.grad_added_to_main_grad
    assert gap(weight.main_grad + weight.grad, copy.grad) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_without_tied_embeddings_the_dummy_is_not_the_gradient():
    hidden, weight, labels, valid, *_ = problem()
    weight = torch.nn.Parameter(weight.detach())
    found = selective_linear_cross_entropy(
        hidden,
        weight,
        labels,
        valid=valid,
        vocab_size=50,
        main_grad=(total := torch.ones(50, 16)),
        impl="chunked",
    )
    found.loss.sum().backward()
    assert weight.grad is None and not total.eq(1).all()


def test_exponentials_kept_in_bf16_give_the_gradients_of_recomputed_ones():
    arguments = problem(vocab=150, dtype=torch.bfloat16, scale=2.0)
    for cache in (21 * (2 * 32 + 4) * 3, 1 << 30):  # three tiles, all tiles
        check(arguments, 1e-2, k=0.6, impl="triton", cache=cache)
    exact = problem(vocab=150, scale=2.0)
    check(exact, 2e-3, k=0.6, impl="triton", cache=1 << 30)
    with pytest.raises(AssertionError):  # so the kept ones are used
        check(exact, 1e-6, k=0.6, impl="triton", cache=1 << 30)


@each_impl
def test_entropy_is_that_of_the_predictions(impl):
    hidden, weight, labels, *_ = problem(vocab=70, scale=2.0, padding=20)
    for softcap in (None, 3.0):
        nll, entropy = linear_nll(
            hidden, weight, labels, vocab_size=70, softcap=softcap, entropy=True, impl=impl
        )
        logits = hidden.double() @ weight[:70].double().t()
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        torch.testing.assert_close(
            entropy.double(), torch.distributions.Categorical(logits=logits).entropy(), rtol=1e-5, atol=1e-5
        )
        assert gap(nll, definition(hidden, weight, labels, 70, softcap)[0]) < 1e-5


def test_the_cpu_keeps_few_logits_only(monkeypatch):
    from perdure.kernels import selective

    assert selective.choose_impl(torch.device("cpu"), 1 << 24) == "torch"
    assert selective.choose_impl(torch.device("cpu"), (1 << 24) + 1) == "chunked"
    assert selective.choose_impl(torch.device("cuda"), 1) == "triton"
    monkeypatch.setattr(selective, "find_spec", lambda name: None)
    assert selective.choose_impl(torch.device("cuda"), 1) == "chunked"


@pytest.mark.slow
def test_vocabulary_shards_agree():
    """TP = 1, 2 and 4, with and without sequence parallelism, by every implementation and scope, fp32 and bf16."""
    for losses, gradients, selections_agree in on_ranks("vocabulary_shards", 4):
        assert losses < 1e-6 and gradients < 1e-5 and selections_agree
