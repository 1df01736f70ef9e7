"""KL to a frozen teacher beside the loss: by every implementation against its definition in float64, and exactly 0 to
itself."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_ranks import on_ranks

from perdure.kernels import chunked, selective_linear_cross_entropy, triton_loss

each_impl = pytest.mark.parametrize("impl", ["torch", "chunked", "triton"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks so small that even these problems have several."""
    monkeypatch.setitem(chunked.ADDED, "cpu", 1)
    monkeypatch.setitem(chunked.HELD, "cpu", 500)
    monkeypatch.setattr(chunked, "COLUMNS", 8)
    monkeypatch.setattr(triton_loss, "GRADIENT_BYTES", 4096)
    monkeypatch.setattr(triton_loss, "PROGRAMS", 4)


class Case:
    """A student, a teacher of another width, and which tokens have a KL."""

    def __init__(
        self, seed=0, batch=3, length=7, widths=(16, 12), vocab=70, padding=0, dtype=torch.float32, tied=False
    ):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape, scale=1.0):
            return (scale * torch.randn(*shape, generator=generator)).to(dtype)

        self.hidden, self.their_hidden = (normal(batch, length, width) for width in widths)
        self.weight, self.their_weight = (normal(vocab + padding, width, scale=0.5) for width in widths)
        if tied:  # half of a token's logits are equal
            self.weight[1::2], self.their_weight[1::2] = self.weight[0].clone(), self.their_weight[0].clone()
        self.labels = torch.randint(0, vocab, (batch, length), generator=generator)
        self.valid = torch.rand(batch, length, generator=generator) > 0.2
        self.reference = torch.rand(batch, length, generator=generator) * 4
        asked = torch.rand(batch, length, generator=generator) > 0.5
        self.kl_weight = torch.rand(batch, length, generator=generator) * asked
        self.vocab = vocab

    def loss(self, impl, hidden, weight, kl_weight="own", **options):
        """The loss of hidden states and weight, with this case's KL, another, or none (None)."""
        if kl_weight is not None:
            options |= {"teacher_hidden": self.their_hidden, "teacher_weight": self.their_weight}
            options["kl_weight"] = self.kl_weight if isinstance(kl_weight, str) else kl_weight
        options |= {"valid": self.valid, "reference_nll": self.reference, "vocab_size": self.vocab}
        return selective_linear_cross_entropy(hidden, weight, self.labels, impl=impl, **options)

    def run(self, impl, upstream=1.0, **options):
        """The loss, and gradients of hidden states and weight, of the sum of the objective times `upstream`."""
        hidden, weight = (x.clone().requires_grad_() for x in (self.hidden, self.weight))
        found = self.loss(impl, hidden, weight, **options)
        objective = found.loss * found.selected if found.kl is None else found.loss
        return found, torch.autograd.grad((objective * upstream).sum(), (hidden, weight))

    def definition(self, selected, upstream, softcap=None, z_loss=0.0, token_weight=1.0):
        """KL, objective of every token and its gradients, in float64, by the shortest way."""
        hidden, weight = (x.double().requires_grad_() for x in (self.hidden, self.weight))

        def logits(rows, columns):
            found = rows.double() @ columns[: self.vocab].double().t()
            return softcap * torch.tanh(found / softcap) if softcap else found

        ours, theirs = logits(hidden, weight), logits(self.their_hidden, self.their_weight)
        p, q = theirs.softmax(-1), ours.softmax(-1)
        kl = (p * (p.log() - q.log())).sum(-1)
        nll = F.cross_entropy(ours.flatten(0, 1), self.labels.flatten(), reduction="none").view_as(kl)
        loss = selected * token_weight * (nll + z_loss * ours.logsumexp(-1) ** 2) + self.kl_weight * kl
        return kl, loss, torch.autograd.grad((loss * upstream).sum(), (hidden, weight))


def gap(found, expected):
    """Norm of the difference, relative to the expected norm, or to a tenth where terms cancel to less."""
    return float((found.double() - expected).norm() / expected.norm().clamp_min(0.1))


def check(case, impl, tolerance, **options):
    """Losses, KL and gradients against the definition."""
    upstream = torch.rand(case.labels.shape, generator=torch.Generator().manual_seed(9)) + 0.5
    found, gradients = case.run(impl, upstream, **options)
    extra = {key: options[key] for key in ("softcap", "z_loss", "token_weight") if key in options}
    kl, loss, expected = case.definition(found.selected, upstream, **extra)
    asked = case.kl_weight != 0
    assert gap(found.loss, loss) < 1e-5
    assert gap(found.kl, kl.detach() * asked) < 1e-5 and (found.kl[~asked] == 0).all()
    for ours, theirs in zip(gradients, expected, strict=True):
        assert gap(ours, theirs) < tolerance
    assert (gradients[0][~(found.selected | asked)] == 0).all()
    assert (gradients[1][case.vocab :] == 0).all()
    return found


@each_impl
@settings(max_examples=15)
@given(data=st.data())
def test_losses_and_gradients_are_those_of_the_definition(impl, data):
    """Any shape, padded vocabularies, equal logits; KL at selected tokens and at others."""
    dtype, tolerance = data.draw(st.sampled_from([(torch.float32, 1e-5), (torch.bfloat16, 1e-2)]))
    case = Case(
        seed=data.draw(st.integers(0, 99)),
        batch=data.draw(st.integers(1, 3)),
        length=data.draw(st.integers(1, 13)),
        widths=(data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))),
        vocab=data.draw(st.integers(2, 150)),
        padding=data.draw(st.integers(0, 40)),
        dtype=dtype,
        tied=data.draw(st.booleans()),
    )
    if data.draw(st.booleans()):  # all tokens
        case.kl_weight += 0.1
    check(case, impl, tolerance, k=data.draw(st.sampled_from([0.3, 0.6, 1.0])))


@each_impl
def test_weights_softcap_and_z_loss(impl):
    weight = torch.rand(3, 7, generator=torch.Generator().manual_seed(1))
    case = Case(padding=30)
    check(case, impl, 1e-5, k=0.6, token_weight=weight)
    check(case, impl, 1e-5, k=0.6, softcap=2.0, z_loss=0.01, token_weight=weight)
    check(case, impl, 1e-5, k=0.6, softcap=2.0, token_weight=torch.zeros(3, 7))  # KL alone


@each_impl
def test_exact_values(impl):
    """Teacher (.5, .3, .2), student (.6, .3, .1), label 0, weight .5: KL of the teacher from the student, not the reverse."""
    teacher, student = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.6, 0.3, 0.1])
    hidden = student.log().view(1, 1, 3).requires_grad_()
    found = selective_linear_cross_entropy(
        hidden,
        torch.eye(3),
        torch.tensor([[0]]),
        valid=torch.tensor([[True]]),
        teacher_hidden=teacher.log().view(1, 1, 3),
        teacher_weight=torch.eye(3),
        kl_weight=torch.tensor([[0.5]]),
        vocab_size=3,
        impl=impl,
    )
    found.loss.sum().backward()
    assert float(found.kl) == pytest.approx(0.0474687, abs=2e-7)
    assert float(found.loss) == pytest.approx(0.5345600, abs=2e-7)
    assert hidden.grad.flatten().tolist() == pytest.approx([-0.35, 0.30, 0.05], abs=2e-7)
    assert float(hidden.grad.sum()) == pytest.approx(0, abs=1e-7)


@each_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", ["all", "some"])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_a_model_from_itself_has_no_kl_and_no_gradient_of_it_to_the_bit(impl, dtype, share, softcap):
    """Also beside the loss: its own gradient stays what it is without a teacher, bit for bit."""
    case = Case(vocab=90, padding=10, dtype=dtype)
    case.their_hidden, case.their_weight = case.hidden.clone(), case.weight.clone()
    weights = case.kl_weight + 0.1 if share == "all" else case.kl_weight
    alone, of_kl = case.run(impl, kl_weight=weights, token_weight=torch.zeros(3, 7), softcap=softcap)
    assert (alone.kl == 0).all() and (alone.loss == 0).all()
    assert all((gradient == 0).all() for gradient in of_kl)
    beside, both = case.run(impl, kl_weight=weights, selected=torch.ones(3, 7).bool(), softcap=softcap)
    plain, without = case.run(impl, kl_weight=None, selected=torch.ones(3, 7).bool(), softcap=softcap)
    assert torch.equal(beside.loss, plain.loss) and torch.equal(beside.nll, plain.nll)
    assert all(map(torch.equal, both, without))


@each_impl
def test_tokens_without_kl_keep_every_bit_of_their_loss_and_gradient(impl):
    """The batch has replayed samples, whose KL is asked for, and new ones, whose is not."""
    case = Case(batch=4)
    case.kl_weight = torch.zeros(4, 7).index_fill(0, torch.tensor([1, 3]), 1.0)
    found, gradients = case.run(impl, k=0.6)
    plain, without = case.run(impl, kl_weight=None, k=0.6)
    new = torch.tensor([0, 2])
    assert torch.equal(found.selected, plain.selected) and torch.equal(found.nll, plain.nll)
    assert torch.equal(found.loss[new], (plain.loss * plain.selected)[new])
    # A replayed token that was not selected is one more row of the matrix products.
    assert gap(gradients[0][new], without[0][new].double()) < 1e-6
    case.valid[:], everything = True, {"k": 1.0}
    (_, gradients), (_, without) = case.run(impl, **everything), case.run(impl, kl_weight=None, **everything)
    assert torch.equal(gradients[0][new], without[0][new])
    assert not torch.equal(gradients[0], without[0])


@each_impl
def test_weights_of_zero_are_the_loss_without_a_teacher_to_the_bit(impl):
    case = Case()
    found, gradients = case.run(impl, kl_weight=torch.zeros(3, 7), k=0.6)
    plain, without = case.run(impl, kl_weight=None, k=0.6)
    assert plain.kl is None and (found.kl == 0).all()
    assert torch.equal(found.loss, plain.loss * plain.selected)
    assert all(map(torch.equal, gradients, without))


@each_impl
def test_what_the_teacher_says_where_no_kl_is_asked_for_does_not_matter(impl):
    case = Case()
    found, gradients = case.run(impl)
    case.their_hidden[case.kl_weight == 0] = torch.nan
    other, others = case.run(impl)
    assert torch.equal(found.loss, other.loss) and torch.equal(found.kl, other.kl)
    assert all(map(torch.equal, gradients, others))


@each_impl
def test_the_teacher_gets_no_gradient(impl):
    case = Case()
    case.their_hidden.requires_grad_()
    case.their_weight.requires_grad_()
    hidden = case.hidden.clone().requires_grad_()
    case.loss(impl, hidden, case.weight).loss.sum().backward()
    assert hidden.grad is not None
    assert case.their_hidden.grad is None and case.their_weight.grad is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "z_loss": 0.01}])
def test_triton_and_chunked_agree(dtype, tolerance, options):
    """On what is selected to the bit, on loss, KL and both gradients to rounding; the vocabulary is padded."""
    case = Case(seed=3, vocab=90, padding=10, dtype=dtype)
    (left, ours), (right, theirs) = (case.run(impl, k=0.6, **options) for impl in ("chunked", "triton"))
    assert torch.equal(left.selected, right.selected) and 0 < left.selected.sum() < case.valid.sum()
    assert left.kl.count_nonzero() == case.kl_weight.count_nonzero() > 0
    for name in ("nll", "loss", "kl"):
        assert gap(getattr(left, name), getattr(right, name).double()) < 1e-6, name
    for one, other in zip(ours, theirs, strict=True):
        assert gap(one, other.double()) < tolerance


@each_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_added_to_main_grad(impl, dtype):
    case = Case(dtype=dtype)
    _, (_, expected) = case.run(impl)
    weight = torch.nn.Parameter(case.weight)
    weight.main_grad = torch.ones(70, 16)
    case.loss(impl, case.hidden, weight, main_grad=weight.main_grad).loss.sum().backward()
    assert gap(weight.main_grad - 1, expected.double()) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_a_kl_of_large_logits_is_as_exact_as_their_float32():
    """Both models' logits 1000 above 0, and the teacher's 3 above the student's."""
    case = Case(widths=(16, 16))
    case.hidden, case.their_hidden = (
        torch.cat([x, torch.full((3, 7, 1), level)], 2)
        for x, level in ((case.hidden, 1000.0), (case.their_hidden, 1003.0))
    )
    case.weight, case.their_weight = (
        torch.cat([x, torch.ones(70, 1)], 1) for x in (case.weight, case.their_weight)
    )
    case.kl_weight += 1
    expected, _, _ = case.definition(torch.zeros(3, 7), torch.ones(3, 7))
    for impl in ("torch", "chunked", "triton"):
        found, _ = case.run(impl)
        assert (found.kl - expected).abs().max() < 5 * 2**-14  # distance of float32 numbers near 1000


@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}])
def test_how_many_logits_are_held_changes_no_bit(options, monkeypatch):
    monkeypatch.setitem(chunked.ADDED, "cpu", 400)
    found = []
    for held in (1, 1000, 1 << 24):
        monkeypatch.setitem(chunked.HELD, "cpu", held)
        result, gradients = Case(vocab=150).run("chunked", **options)
        found.append((result.loss, result.kl, *gradients))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.slow
def test_logits_of_neither_model_exist():
    """Peak of forward and backward, of a process of its own: under a quarter of two sets of logits."""
    script = Path(__file__).parents[1] / "kl_memory.py"
    outcome = subprocess.run([sys.executable, str(script), "4096", "49152"], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    peaks = dict(zip(("all", "some"), map(int, outcome.stdout.split()), strict=True))
    logits = 2 * 4 * 4096 * 49152
    assert all(peak < logits / 4 for peak in peaks.values()), (peaks, logits)


@pytest.mark.slow
def test_vocabulary_shards_agree():
    """TP = 1, 2 and 4, with and without sequence parallelism, by every implementation, fp32 and bf16."""
    for losses, gradients, same_bits, zero_to_itself in on_ranks("kl_of_vocabulary_shards", 4):
        assert losses < 1e-6 and gradients < 1e-5 and same_bits and zero_to_itself
