"""Building plans: the same bytes again, refusals that name what differs, and what the hash covers."""

import shutil
from pathlib import Path

import pytest
from tiny import tiny_recipe, write_data

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.plan.history import history
from perdure.pipeline.plan.plan import locate, num_samples, num_steps, open_plan
from perdure.pipeline.plan.planning import build_plan
from tests.pipeline.plan.numbered import BOTH, REPLAY, SEQ, build, numbered_documents, recipe_of


def test_budget_is_rounded_up_to_whole_steps(tmp_path):
    recipe = tiny_recipe(tmp_path, versions__v1__tokens=SEQ * 8 * 3 + 1)
    version = recipe.versions["v1"]
    assert num_steps(recipe, version) == 4
    assert num_samples(recipe, version) == 32


def test_building_again_gives_the_same_bytes(tmp_path, data, scores):
    mixture = {
        "sources": {"a": {"order": "easy_to_hard"}},
        "replay": {"share": 0.1, "sources": {"b": {}}},
    }
    for name in ("one", "two"):
        build(tmp_path / name, data, mixture, scores)
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "plan").iterdir()} for name in ("one", "two")
    )
    assert one == two
    assert "replay~b.ends.npy" in one


def test_a_finished_plan_is_opened_not_rebuilt(tmp_path, data):
    first = build(tmp_path, data, BOTH)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "plan").iterdir()}
    second = build(tmp_path, data, BOTH)
    assert first.hash == second.hash == open_plan(tmp_path / "plan").hash
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "plan").iterdir()}


def test_a_finished_plan_is_opened_without_looking_into_shards(tmp_path, data):
    mine = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in data.items()}
    first = build(tmp_path, mine, BOTH)
    for path in mine.values():
        for shard in (*path.glob("*.idx"), *path.glob("*.bin")):
            shard.unlink()
    assert build(tmp_path, mine, BOTH).hash == first.hash


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 99}, "seed: 1234 -> 99"),
        ({"steps": 41}, "num_samples"),
        ({"mixture": {"sources": {"a": {"weight": 0.6}, "b": {"weight": 0.4}}}}, "counts"),
        (
            {"mixture": {"sources": {"a": {"weight": 0.7, "order": "given"}, "b": {"weight": 0.3}}}},
            "sources.a.order: 'shuffled' -> 'given'",
        ),
    ],
)
def test_a_plan_of_something_else_is_refused_and_named(tmp_path, data, changes, named):
    build(tmp_path, data, BOTH)
    with pytest.raises(PerdureError) as refused:
        build(tmp_path, data, **{"mixture": BOTH} | changes)
    assert named in str(refused.value)
    assert str(tmp_path / "plan") in str(refused.value)


def test_other_data_is_refused_and_named(tmp_path, data):
    build(tmp_path, data, BOTH)
    other = write_data(tmp_path / "b", [numbered_documents([3, 4], 1), []], [], 65_000)
    with pytest.raises(PerdureError, match=r"sources\.b\.data_hash"):
        build(tmp_path, data | {"b": other}, BOTH)


def test_too_much_repetition_is_refused(tmp_path, data):
    with pytest.raises(
        PerdureError, match=r"source b: [\d,]+ tokens asked of [\d,]+ would repeat it \d+\.\d times"
    ):
        build(tmp_path, data, BOTH | {"max_repetition": 3})
    assert not (tmp_path / "plan").exists()


def test_what_ancestors_took_counts_in_repetition(tmp_path, data):
    """A source of one epoch and 1.5 of it a version: the third would be its fourth and a half."""
    size = build(tmp_path / "size", data, {"sources": {"b": {}}}).sources["b"]["samples_per_epoch"]
    steps = -(-3 * size // (2 * 8))
    limit = 2 * steps * 8 / size
    mixture = {"sources": {"b": {}}, "max_repetition": limit}
    recipe, history = recipe_of(tmp_path, mixture, steps), []
    for number in (1, 2):
        plan = build_plan(tmp_path / f"plan{number}", recipe, "v1", data, {}, history)
        history = [(plan, plan.end), *history]
    assert plan.sources["b"]["start"] == steps * 8
    tokens = f"{steps * 8 * SEQ:,}"
    with pytest.raises(
        PerdureError, match=f"source b: {tokens} tokens .*, after {2 * steps * 8 * SEQ:,} by its"
    ) as no:
        build_plan(tmp_path / "plan3", recipe, "v1", data, {}, history)
    assert f"would repeat it {3 * steps * 8 / size:.1f} times" in str(no.value)


def test_the_hash_says_what_decides_the_stream(tmp_path, data):
    hashes = {
        build(tmp_path / str(number), data, **changes).hash
        for number, changes in enumerate(
            [
                {"mixture": BOTH},
                {"mixture": BOTH, "seed": 1},
                {"mixture": BOTH, "steps": 41},
                {"mixture": REPLAY},
            ]
        )
    }
    assert len(hashes) == 4


@pytest.mark.parametrize("new", ["a", "b"])
def test_branches_replay_what_the_version_that_they_leave_does(tmp_path, data, new):
    step, common = SEQ * 8, {"schedule": {"type": "constant", "max_lr": 0.01}}
    replay = {"sources": {new: {}}, "replay": {"share": 0.25, "from_parents": True}, "max_repetition": 100}
    main = {"start": {"type": "update", "parent": "v1"}, "tokens": 9 * step, "mixture": replay}

    def branch(parent, at, steps):
        return common | {"start": {"type": "branch", "parent": parent, "step": at}, "tokens": steps * step}

    versions = {
        "v1": common | {"start": {"type": "init"}, "tokens": 4 * step, "mixture": {"sources": {"a": {}}}},
        "main": common | main,
        "jan": branch("main", 4, 3),
        "feb": branch("jan", 2, 3),  # off a branch
    }
    recipe = tiny_recipe(tmp_path, versions=versions)
    plans = {
        name: build_plan(recipe.paths.version(name).plan, recipe, name, data, {}, history(recipe, name))
        for name in versions
    }
    path = plans["main"]
    for name, first in (("jan", 4), ("feb", 6)):
        assert plans[name].first_sample == 8 * first
        both = range(8 * first, min(plans[name].end, path.end))
        assert [locate(plans[name], index) for index in both] == [locate(path, index) for index in both]
