import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.pipeline.train.paging import PAGE, ask, find_place


class Counted:
    """An array that notes which of its pages are looked at."""

    itemsize = 8

    def __init__(self, array):
        self.array, self.pages = array, set()

    def __len__(self):
        return len(self.array)

    def __getitem__(self, places):
        touched = np.arange(len(self.array))[places]
        self.pages |= set(np.atleast_1d(touched)[[0, -1]] * self.itemsize // PAGE) if touched.size else set()
        return self.array[places]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 20_000),
    st.sampled_from(["even", "sorted", "one long", "many empty"]),
    st.integers(0, 2**32 - 1),
)
def test_a_place_is_what_searchsorted_says(documents, kind, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 2000, documents)
    if kind == "sorted":
        lengths = np.sort(lengths**3)
    elif kind == "one long":
        lengths[rng.integers(documents)] = 10**12
    elif kind == "many empty":
        lengths = np.where(rng.random(documents) < 0.9, 1, lengths**4)
    ends = np.cumsum(lengths)
    edges = [0, int(ends[-1]) - 1, *(int(end) - 1 for end in rng.choice(ends, 5))]
    for position in [*edges, *rng.integers(0, ends[-1], 10)]:
        assert find_place(ends, int(position)) == np.searchsorted(ends, position, side="right")


@pytest.mark.parametrize(("kind", "most"), [("even", 8), ("sorted", 30)])
def test_a_place_among_a_million_documents_takes_few_pages(kind, most):
    rng = np.random.default_rng(0)
    lengths = rng.integers(200, 1801, 1_000_000)
    ends = np.cumsum(np.sort(lengths) ** 3 if kind == "sorted" else lengths)
    for position in rng.integers(0, ends[-1], 200):
        counted = Counted(ends)
        find_place(counted, int(position))
        assert len(counted.pages) <= most


def test_what_is_asked_for_lies_in_the_file(tmp_path):
    path = tmp_path / "numbers"
    np.arange(10_000, dtype=np.int32).tofile(path)
    mapped = np.memmap(path, np.int32, "r", offset=36, shape=(9_000,))
    for first, stop in [(0, 1), (1000, 1030), (8_999, 9_000), (0, 9_000)]:
        ask(mapped, first, stop)
    ask(np.empty(0, np.int32), 0, 0)
    assert mapped[8_999] == 9_008
