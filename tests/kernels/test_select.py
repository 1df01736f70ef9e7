import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_ranks import on_ranks

from perdure.kernels import excess_threshold, radix_threshold, select_by_threshold, select_tokens


def reference_selection(nll, reference, valid, k):
    """The definition, token by token, in Python's own arithmetic."""
    places = [i for i in range(len(nll)) if valid[i]]
    wanted = int(len(places) * k + 0.5)
    finite = [i for i in places if reference[i] == reference[i]]
    ranked = sorted(finite, key=lambda i: (-(nll[i] - reference[i]), i))
    return set(ranked[:wanted])


shapes = st.tuples(st.integers(1, 4), st.integers(1, 24))
shares = st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.6, 0.9])


@st.composite
def problems(draw):
    """Few distinct numbers, so that there are many ties; some references missing, some tokens invalid."""
    batch, length = draw(shapes)
    size = batch * length
    lists = [
        draw(st.lists(st.sampled_from(choices), min_size=size, max_size=size))
        for choices in ([0.0, 0.5, 1.0, 2.0, 7.0], [0.0, 0.5, 1.0, math.nan], [True, True, False])
    ]
    return [torch.tensor(x).view(batch, length) for x in lists]


def chosen(selected):
    return set(selected.flatten().nonzero()[:, 0].tolist())


@given(problems(), shares)
def test_selects_the_highest_excess_loss_and_breaks_ties_by_index(problem, k):
    expected = reference_selection(*(x.flatten().tolist() for x in problem), k)
    for scope in ("microbatch", "dp_microbatch", "global", "global_lagged"):
        assert chosen(select_tokens(*problem, k=k, scope=scope)) == expected
    rows = select_tokens(*problem, k=k, scope="sequence")
    for row in range(len(rows)):
        expected = reference_selection(*(x[row].tolist() for x in problem), k)
        assert chosen(rows[row]) == expected


@given(problems(), shares, st.data())
def test_sequences_that_are_always_selected_do_not_compete(problem, k, data):
    nll, reference, valid = problem
    always = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(nll), max_size=len(nll))))
    for scope in ("sequence", "microbatch", "dp_microbatch", "global"):
        selected = select_tokens(nll, reference, valid, k=k, scope=scope, always=always[:, None])
        assert torch.equal(selected[always], valid[always])
        if not always.all():
            others = [x[~always] for x in problem]
            assert torch.equal(selected[~always], select_tokens(*others, k=k, scope=scope))


def test_k_of_one_needs_no_reference():
    valid = torch.tensor([[True, False, True]])
    assert torch.equal(select_tokens(torch.ones(1, 3), None, valid, k=1.0), valid)


def test_no_reference_at_all_selects_nothing():
    for scope in ("sequence", "microbatch", "dp_microbatch", "global", "global_lagged"):
        none = torch.full((2, 3), math.nan)
        assert not select_tokens(torch.ones(2, 3), none, torch.ones(2, 3).bool(), k=0.5, scope=scope).any()


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.data())
def test_the_radix_threshold_is_the_wanted_th_highest(scores, data):
    """Over all of float32: infinities, denormals, both zeros."""
    scores = torch.tensor(scores + data.draw(st.lists(st.sampled_from(scores), max_size=10)))
    wanted = data.draw(st.integers(1, len(scores)))
    threshold, ties = radix_threshold(scores, torch.tensor(wanted))
    assert threshold == scores.sort(descending=True).values[wanted - 1]
    assert (scores > threshold).sum() + ties == wanted
    assert 1 <= ties <= (scores == threshold).sum()


def test_the_radix_threshold_of_nothing_is_infinite():
    threshold, ties = radix_threshold(torch.tensor([1.0, 2.0]), torch.tensor(0))
    assert threshold == math.inf and ties == 0


def test_thresholds_are_scores_bit_for_bit():
    scores = torch.tensor([0.1, -0.1, 3.4e38, 1e-45, -3.4e38])
    found = [radix_threshold(scores, torch.tensor(n))[0] for n in (1, 2, 3, 4, 5)]
    expected = scores.sort(descending=True).values.tolist()
    assert [struct.pack("f", x) for x in found] == [struct.pack("f", x) for x in expected]


def test_the_lagged_threshold_is_applied_as_it_is():
    nll = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    reference, valid = torch.zeros(2, 3), torch.ones(2, 3).bool()
    threshold, _ties = excess_threshold(nll, valid, 0.5)
    assert threshold == 4.0
    later = select_tokens(nll + 1, reference, valid, k=0.5, scope="global_lagged", threshold=threshold)
    assert torch.equal(later, nll >= 3)
    assert torch.equal(select_by_threshold(nll, threshold), nll >= 4)


@pytest.mark.slow
def test_data_parallel_ranks_select_what_one_rank_selects():
    """Forty problems with many ties; DP = 1, 2 and 4."""
    assert on_ranks("selection", 4) == [40] * 4


def test_without_the_trainees_loss_the_lowest_reference_wins():
    reference = torch.tensor([[3.0, 1.0, torch.nan, 2.0, 0.5, 9.0]])
    valid = torch.tensor([[True, True, True, True, False, True]])
    selected = select_tokens(None, reference, valid, k=0.4)
    assert selected.tolist() == [[False, True, False, True, False, False]]
