"""The pretended GPU refuses what a GPU would refuse, and counts what makes its host wait."""

import pytest
import torch
from gpu import attention, machine, pinned
from gpu.ledger import LEDGER
from gpu.tensor import CudaTensor, Machine, own_device


@pytest.fixture(autouse=True)
def ledger(monkeypatch):
    for name in ("pin_memory", "is_pinned"):
        monkeypatch.setattr(torch.Tensor, name, getattr(torch.Tensor, name))  # put back afterwards
    pinned.install()
    LEDGER.clear()
    yield LEDGER
    LEDGER.clear()


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(*values, dtype=torch.float32) -> CudaTensor:
    return CudaTensor(torch.tensor(values, dtype=dtype))


def waits() -> dict[str, int]:
    """Reasons alone: these tests are outside of the product."""
    return {name.removeprefix("outside: "): count for name, count in LEDGER.waits.items()}


def test_it_is_on_the_gpu_and_its_numbers_are_true():
    x = on_gpu(1.0, 2.0)
    assert x.is_cuda and x.device == own_device() and x.type() == "torch.cuda.FloatTensor"
    y = (x * 3 + 1)[1:]
    assert isinstance(y, CudaTensor) and y.inner.tolist() == [7.0]
    assert not waits()


def test_gradients_and_views_are_those_of_torch():
    weight = torch.nn.Parameter(on_gpu(1.0, 2.0, 3.0, 4.0).view(2, 2))
    (weight.t()[0] ** 2).sum().backward()
    assert weight.grad.inner.tolist() == [[2.0, 0.0], [6.0, 0.0]]
    whole = on_gpu(0.0, 0.0)
    assert whole[:1].add_(1).is_cuda and whole.inner.tolist() == [1.0, 0.0]


def test_two_devices_are_refused_but_for_numbers():
    with pytest.raises(RuntimeError, match="same device"):
        on_gpu(1.0) + torch.ones(1)
    assert (on_gpu(1.0) + torch.tensor(1.0)).inner.tolist() == [2.0]


def test_another_gpu_is_refused():
    with pytest.raises(RuntimeError, match="uses cuda:3"):
        on_gpu(1.0).to("cuda:3")


def test_what_deterministic_mode_refuses(deterministic):
    with pytest.raises(RuntimeError, match="kthvalue has no deterministic"):
        on_gpu(1.0, 2.0).kthvalue(1)
    with pytest.raises(RuntimeError, match="cumsum has no deterministic"):
        on_gpu(1.0, 2.0).cumsum(0)
    assert on_gpu(1, 2, dtype=torch.int64).cumsum(0).inner.tolist() == [1, 3]
    on_gpu(0.0).index_add_(0, on_gpu(0, dtype=torch.int64), on_gpu(1.0))
    assert sum(LEDGER.sorts.values()) == 1


def test_pickling_and_numpy_are_refused():
    with pytest.raises(RuntimeError, match="pickled"):
        on_gpu(1.0).__reduce_ex__(2)
    with pytest.raises(TypeError, match="numpy"):
        on_gpu(1.0).numpy()


@pytest.mark.parametrize(
    "waiting, reason",
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: float(x.sum()), "item"),
        (lambda x: bool((x > 0).all()), "item"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "copy to the host"),
        (
            lambda x: torch.ones(2).copy_(x, non_blocking=True),
            "copy to the host, non_blocking in pageable memory",
        ),
        (
            lambda x: x.copy_(torch.ones(2), non_blocking=True),
            "copy to the GPU, non_blocking in pageable memory",
        ),
        (lambda x: x.copy_(torch.ones(2).pin_memory()), "copy to the GPU"),
        (
            lambda x: x.copy_(torch.ones(2, 2).pin_memory()[:, 0], non_blocking=True),
            "copy to the GPU, non_blocking with gaps in memory",
        ),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "index by a mask"),
        (lambda x: x[torch.tensor([0])], "index by an index of the CPU"),
        (lambda x: x[(x > 0).sum() - 1], "item"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.copy_(torch.ones(2)), "copy to the GPU"),
        (lambda x: torch.ones(2).copy_(x), "copy to the host"),
    ],
)
def test_a_wait_is_counted_once(waiting, reason):
    with Machine():
        waiting(on_gpu(1.0, 2.0))
    assert waits() == {reason: 1}


def test_copies_of_pinned_memory_need_no_wait():
    with Machine():
        whole = torch.arange(4.0).pin_memory()
        assert whole.is_pinned() and whole[2:].is_pinned() and not torch.arange(4.0).is_pinned()
        x = on_gpu(0.0, 0.0)
        x.copy_(whole[2:], non_blocking=True)
        assert x.inner.tolist() == [2.0, 3.0] and torch.empty(2, pin_memory=True).is_pinned()
    assert not waits()


def test_what_is_copied_to_the_host_is_not_there_before_the_host_has_waited():
    for x in (on_gpu(1.0, 2.0), on_gpu(1, 2, dtype=torch.int64), on_gpu(True, False, dtype=torch.bool)):
        with Machine():
            found = x.to("cpu", non_blocking=True)
            into = torch.empty_like(found, pin_memory=True)
            into.copy_(x, non_blocking=True)
        assert found.is_pinned() and not waits()
        assert not (found == x.inner).any() and not (into == x.inner).any()
        machine.Stream().synchronize()
        assert torch.equal(found, x.inner) and torch.equal(into, x.inner)
        assert waits() == {"synchronize": 1}
        LEDGER.clear()


def test_what_needs_no_wait_counts_none():
    x = on_gpu(1.0, -2.0)
    x[x < 0] = 0.0
    x.masked_fill(x > 0, 1.0).index_select(0, on_gpu(1, dtype=torch.int64)).to(torch.bfloat16)
    assert not waits()


def test_products_into_float32_want_half_operands():
    a = CudaTensor(torch.eye(2, dtype=torch.bfloat16))
    assert torch.mm(a, a, out_dtype=torch.float32).dtype == torch.float32
    total = CudaTensor(torch.ones(2, 2))
    torch.addmm(total, a, a, out_dtype=torch.float32, out=total)
    assert total.inner.tolist() == [[2.0, 1.0], [1.0, 2.0]]
    with pytest.raises(RuntimeError, match="no product"):
        torch.mm(total, total, out_dtype=torch.bfloat16)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_inside_documents_is_torchs(groups):
    generator = torch.Generator().manual_seed(groups)
    lengths, heads, width = (3, 1, 5), 4, 8
    query, key, value = (
        torch.randn(9, count, width, generator=generator).bfloat16().requires_grad_()
        for count in (heads, groups, groups)
    )
    upstream = torch.randn(9, heads, width, generator=generator).bfloat16()
    parts = zip(*(x.float().transpose(0, 1)[None].split(lengths, 2) for x in (query, key, value)))
    expected = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True)[0]
            for part in parts
        ],
        1,
    ).transpose(0, 1)
    gradients = torch.autograd.grad(expected, (query, key, value), upstream.float())
    ends = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
    own = [x.detach() for x in (query, key, value)]
    found, *state = attention.forward(*own, ends, ends, 5, 5, False, None, [-1, 0])
    assert torch.equal(found, expected.bfloat16())
    back = attention.backward(
        upstream, *own, found, state[0], ends, ends, 5, 5, False, state[1], None, [-1, 0]
    )
    for one, other in zip(back, gradients, strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=2**-7, atol=1e-3)
    with pytest.raises(RuntimeError, match="only supports fp16 and bf16"):
        attention.forward(*(x.float() for x in own), ends, ends, 5, 5, False, None, [-1, 0])
    with pytest.raises(RuntimeError, match="do not fit"):
        attention.forward(*own, ends, ends, 4, 4, False, None, [-1, 0])
