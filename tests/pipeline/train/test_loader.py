"""What the loader reads, and when: every batch once while steps follow one another, anew after a jump or by another plan."""

from dataclasses import replace

import pytest
import torch
from support import metrics, on_rank
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.core.files import read_json
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.train import ahead, loader
from perdure.pipeline.train.dataset import open_dataset, read_batch, read_host_batch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A recipe of three steps of eight samples, each rank's part two micro-batches of two, and its dataset."""
    shape = {"parallel": {"data_parallel": 2}, "versions__v1__tokens": 3 * 8 * 32}
    recipe = tiny_recipe(tmp_path_factory.mktemp("loader"), **shape)
    directory = prepare_version(recipe)
    assert read_json(directory / "plan/plan.json")["num_samples"] == 24
    return recipe, open_dataset(directory / "plan", {x: recipe.directory / "data" / x for x in "ab"}, {})


@pytest.fixture
def read(prepared, monkeypatch):
    """The loader of the second rank, closed afterwards, and the list of what it reads: which plan, which samples."""
    recipe, dataset = prepared
    made, found = loader.Loader(dataset, layout_of(recipe), recipe.training, 1, CPU), []

    def reading(dataset, indices):
        found.append((id(dataset), indices.start))
        return read_host_batch(dataset, indices)

    monkeypatch.setattr(loader, "read_host_batch", reading)
    yield made, found
    made.close()


def starts(batches) -> list[int]:
    return [batch.indices.start for batch in batches]


@pytest.mark.parametrize("depth", [0, 1, 8])
def test_steps_that_follow_one_another_read_each_batch_once_and_nothing_behind_the_last(
    prepared, read, monkeypatch, depth
):
    monkeypatch.setattr(ahead, "AHEAD", depth)
    own, found = read
    for step in range(3):
        for batch in own.batches(8 * step):
            expected = read_batch(prepared[1], batch.indices, CPU)
            for name in ("tokens", "labels", "valid", "positions", "reference", "source", "replayed"):
                assert torch.equal(getattr(batch, name), getattr(expected, name)), name
            assert batch.documents.lengths == expected.documents.lengths
    own.close()
    assert [start for _, start in found] == [2, 6, 10, 14, 18, 22]


def test_a_step_behind_the_last_is_read_too(read):
    assert starts(read[0].batches(24)) == [26, 30]


def test_megatron_takes_as_many_as_there_are_and_does_not_ask_for_the_end(read):
    own, found = read
    for step in range(3):
        batches = own.batches(8 * step)
        assert [next(batches).indices.start for _ in range(2)] == [8 * step + 2, 8 * step + 6]
    assert len(found) == 6


def test_another_step_and_one_that_was_left_halfway_are_read_anew(read, monkeypatch):
    monkeypatch.setattr(ahead, "AHEAD", 2)
    own = read[0]
    assert starts(own.batches(0)) == [2, 6] and starts(own.batches(16)) == [18, 22]
    assert next(own.batches(0)).indices.start == 2
    assert starts(own.batches(0)) == [2, 6] and starts(own.batches(8)) == [10, 14]


def test_nothing_that_was_read_by_another_plan_is_given(prepared, read):
    own, found = read
    assert starts(own.batches(0)) == [2, 6]
    other = replace(prepared[1])
    own.follow(other)
    own.follow(other)
    seen = len(found)
    assert starts(own.batches(8)) == [10, 14]
    assert {plan for plan, _ in found[:seen]} == {id(prepared[1])}
    own.close()
    after = found[seen:]  # closed before it has read all of [10, 14, 18, 22], perhaps
    assert len(after) >= 2 and after == [(id(other), start) for start in (10, 14, 18, 22)][: len(after)]


@pytest.mark.slow
def test_reading_ahead_changes_no_bit_even_where_shares_move_under_what_was_read(tmp_path):
    """Four micro-batches a step and eight read ahead: those of the next two steps are there when the shares move."""
    mixture = {
        "sources": {"a": {"weight": 0.7}, "b": {"weight": 0.3}},
        "reweight": {"interval": 2 * 8 * 32, "alpha": 20.0},
        "max_repetition": 100,
    }
    changes = {
        "versions__v1__mixture": mixture,
        "versions__v1__tokens": 7 * 8 * 32,
        "evaluation__interval": 3,
    }
    assert ahead.AHEAD == 8
    told = []
    for depth in (0, 8):
        version = prepare_version(tiny_recipe(tmp_path / str(depth), **changes))
        on_rank("whole", version, depth, script="step_ranks.py")
        record = read_json(version / "version.json")
        lines = [{**line, "tokens_per_second": None} for line in metrics(version)]
        told.append([record["weights_hash"], record["phases"], lines, (version / "eval.json").read_bytes()])
    for on, off in zip(*told, strict=True):
        assert on == off
    phases = told[0][1]
    assert [phase["first_sample"] for phase in phases] == [16, 32, 48] and phases[0]["ratios"]["a"] != 0.7
