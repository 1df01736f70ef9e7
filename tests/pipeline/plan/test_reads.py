from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_documents, tiny_recipe, write_data

from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.plan.permutation import permute
from perdure.pipeline.plan.plan import locate, open_order
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.plan.reads import documents_read, permuted

SEQ = 32


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_many_places_are_shuffled_as_one_is(size, key):
    indices = np.unique(np.linspace(0, size - 1, 50, dtype=np.int64))
    assert permuted(indices, size, key).tolist() == [permute(index, size, key) for index in indices.tolist()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sources of two shards, of which every third document is of the topic `science`."""
    directory = tmp_path_factory.mktemp("data")

    def label(split, task, number):
        return {"topic": "science" if number % 3 == 0 else "arts"}

    return {
        name: write_data(
            directory / name,
            [random_documents(10 * seed + task, 120, 300, 90) for task in range(2)],
            random_documents(seed, 3, 300),
            300,
            label=label,
        )
        for seed, name in enumerate(("a", "b"))
    }


def documents_of_samples(plan, directory, source):
    """What samples touch, one after another and token by token: labels, and the input before the first."""
    found = set()
    for index in range(plan.first_sample, plan.end):
        key, _epoch, sample = locate(plan, index)
        if is_replayed(key) or source_of(plan.sources[key]["source"]) != source:
            continue
        documents, ends = open_order(directory, key)
        places = range(max(sample * SEQ - 1, 0), min((sample + 1) * SEQ, int(ends[-1])))
        found |= {int(documents[np.searchsorted(ends, place, "right")]) for place in places}
    return found


orders = st.sampled_from(["shuffled", "given"])
fresh = st.dictionaries(
    st.sampled_from(["a/science", "a/arts", "b"]),
    st.fixed_dictionaries({"weight": st.floats(0.1, 3), "order": orders}),
    min_size=1,
)
replay = st.none() | st.fixed_dictionaries(
    {"share": st.floats(0.05, 0.6), "sources": st.just({"b": {}}) | st.just({"a": {}})}
)


@settings(max_examples=40)
@given(fresh, replay, st.integers(1, 40), st.integers(0, 2**31), st.integers(1, 25))
def test_a_plan_and_one_that_goes_on_after_it_read_these_documents_and_no_others(
    data, sources, replayed, steps, seed, steps_after
):
    with TemporaryDirectory() as temporary:
        out, history = Path(temporary), []
        for number, length in enumerate((steps, steps_after)):
            recipe = tiny_recipe(
                out,
                seed=seed,
                training__global_batch_size=4,
                training__micro_batch_size=2,
                versions__v1__tokens=SEQ * 4 * length,
                versions__v1__mixture={"sources": sources, "replay": replayed, "max_repetition": 1e9},
            )
            directory = out / str(number)
            plan = build_plan(directory, recipe, "v1", data, {}, history)
            history = [(plan, plan.end)]
            for source in data:
                found = documents_read(plan, directory, source, 240)
                assert set(np.flatnonzero(found).tolist()) == documents_of_samples(plan, directory, source)
                moving = documents_read(plan, directory, source, 240, moving=True)
                assert not (found & ~moving).any()


def test_a_cutoff_counts_no_document_of_which_the_separator_alone_is_read(tmp_path):
    documents = [document[:SEQ] for document in random_documents(1, 40, 300, 90) if len(document) >= SEQ]
    assert len(documents) > 10
    data = {"a": write_data(tmp_path / "a", [documents], random_documents(2, 2, 300), 300)}
    recipe = tiny_recipe(
        tmp_path / "out",
        training__global_batch_size=4,
        training__micro_batch_size=2,
        versions__v1__tokens=SEQ * 4,
        versions__v1__mixture={"sources": {"a": {"order": "shuffled"}}, "max_repetition": 1e9},
    )
    plan = build_plan(tmp_path / "plan", recipe, "v1", data, {})
    touched, read = (
        documents_read(plan, tmp_path / "plan", "a", len(documents), for_cutoff=only)
        for only in (False, True)
    )
    assert read.sum() == 4 < touched.sum()  # each sample is one document with its separator
