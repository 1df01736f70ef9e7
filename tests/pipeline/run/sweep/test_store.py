"""What runs share is made once, and nothing is shared that differs."""

import os
from dataclasses import replace

import pytest
from tiny import tiny_recipe

from perdure.launch.sweep import sweep_jobs
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.record import record_data
from perdure.pipeline.plan.averages import averaged_steps
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.run.sweep.gather import compared_versions
from perdure.pipeline.run.sweep.spec import Run, Sweep, SweepPlan
from perdure.pipeline.run.sweep.store import link, version_keys, version_places, with_kept_steps

COSINE = {"type": "cosine", "max_lr": 0.01, "min_lr": 0.001}


def make(out, update=None, **changes) -> Recipe:
    versions = {
        "base": {"start": {"type": "init"}, "mixture": {"sources": {"a": {}}}},
        "update": {"start": {"type": "update", "parent": "base"}, "mixture": {"sources": {"b": {}}}},
    }
    versions["update"] |= update or {}
    common = {"tokens": 32 * 8 * 4, "schedule": COSINE}
    return tiny_recipe(out, versions={k: common | v for k, v in versions.items()}, **changes)


def keys(*arguments, asked=None, **changes) -> dict[str, str]:
    return version_keys(make(*arguments, **changes), asked or {})


def test_a_version_is_the_same_where_its_lineage_is(tmp_path):
    plain = keys(tmp_path)
    assert keys(tmp_path / "elsewhere", name="other") == plain
    changed = keys(tmp_path, {"tokens": 512})
    assert changed["base"] == plain["base"] and changed["update"] != plain["update"]
    for change in (
        {"seed": 5},
        {"training__clip_grad": 2.0},
        {"training__ema": 0.9},
        {"model__num_layers": 2},
        {"sources__a__heldout_fraction": 0.2},
        {"data__tasks": 7},
    ):
        changed = keys(tmp_path, **change)
        assert not set(changed.values()) & set(plain.values()), change
    for hook in ({"elastic_reset": {"interval": 2, "ema": 0.9}}, {"reptile": {"interval": 2, "rate": 0.1}}):
        assert keys(tmp_path, hook)["update"] not in plain.values()
    # `b` is the update's alone; what decides nothing may be edited.
    changed = keys(tmp_path, sources__b__reader__path="other")
    assert changed["base"] == plain["base"] and changed["update"] != plain["update"]
    for change in (
        {"training__log_interval": 2},
        {"evaluation__max_tokens": 9},
        {"parallel__data_parallel": 2},
    ):
        assert keys(tmp_path, **change) == plain


def test_a_fitted_merge_makes_no_other_version_anew(tmp_path):
    plain = keys(tmp_path)
    recipe = make(tmp_path)
    start = {"type": "merge", "versions": ["base", "update"], "fitted": {"old": "a"}}
    tree = recipe.model_dump(mode="json")
    tree["versions"]["merged"] = {"start": start, "tokens": 0}
    found = version_keys(Recipe.model_validate(tree), {})
    assert {name: found[name] for name in plain} == plain
    # The held-out text that its shares are fitted on decides the merge alone.
    tree["evaluation"]["max_tokens"] = 9
    other = version_keys(Recipe.model_validate(tree), {})
    assert {name for name in found if found[name] != other[name]} == {"merged"}


def test_the_order_of_domains_that_come_one_after_another_decides(tmp_path):
    def update(order, **settings):
        return {"mixture": {"sources": {name: {} for name in order}} | settings}

    given = [keys(tmp_path, update(order, domain_order="given")) for order in ("ab", "ba")]
    assert given[0]["base"] == given[1]["base"] and given[0]["update"] != given[1]["update"]
    for settings in ({}, {"domain_order": "random"}):
        assert keys(tmp_path, update("ab", **settings)) == keys(tmp_path, update("ba", **settings))


def test_what_decides_nothing_makes_runs_of_its_own_where_it_is_swept(tmp_path):
    asked = [keys(tmp_path, asked={"parallel.data_parallel": value}) for value in (1, 2)]
    assert asked[0]["base"] != asked[1]["base"]


def plan(out, *updates: dict, seeds: tuple = (None,)) -> SweepPlan:
    runs = []
    for number, update in enumerate(updates):
        for seed in seeds:
            name = f"tokens={number}" + (f",seed={seed}" if seed else "")
            recipe = make(out / "runs" / name, update, seed=seed or 1234)
            changes = {"versions.update": update} | ({"seed": seed} if seed else {})
            runs.append(Run(name, {"versions.update": update}, changes, seed, recipe))
    return SweepPlan("test", Sweep(recipe="test.yaml", seeds=tuple(filter(None, seeds))), {}, out, runs)


@pytest.fixture
def three(tmp_path, monkeypatch) -> SweepPlan:
    def tokenizer(recipe):
        assert (recipe.directory / "contents").is_dir()  # which the tokenizer's name depends on
        return recipe.directory / "tokenizer@1"

    monkeypatch.setattr("perdure.pipeline.run.sweep.store.tokenizer_directory", tokenizer)
    return plan(tmp_path, *({"tokens": 256 * count} for count in (1, 2, 3)))


def test_runs_have_links_to_what_they_share(three, tmp_path):
    places = version_places(three)
    for run in three.runs:
        link(three, run, places[run.name])
    bases = {os.path.realpath(run.recipe.directory / "versions" / "base") for run in three.runs}
    updates = {os.path.realpath(run.recipe.directory / "versions" / "update") for run in three.runs}
    assert len(bases) == 1 and len(updates) == 3
    assert (
        sorted(path.name.partition("@")[0] for path in (tmp_path / "versions").iterdir())
        == ["base"] + ["update"] * 3
    )
    run = three.runs[0].recipe.directory
    (tmp_path / "contents" / "a@1.json").touch()
    assert (run / "contents" / "a@1.json").exists()
    (tmp_path / "data" / "a@1").mkdir()
    assert (run / "data" / "a@1").is_dir() and not (run / "tokenizer@1").exists()
    (tmp_path / "tokenizer@1").mkdir()
    assert (run / "tokenizer@1").is_dir()
    # Another version under the same name, as after an edit of the recipe: the old report is not the run's any more.
    (run / "report.json").write_text("{}")
    link(three, three.runs[0], places[three.runs[0].name])
    assert (run / "report.json").exists()
    link(three, three.runs[0], places[three.runs[1].name])
    assert not (run / "report.json").exists()
    assert os.path.realpath(run / "versions" / "update") == str(places[three.runs[1].name]["update"])


def test_shared_versions_keep_the_checkpoints_of_all_branches(tmp_path):
    branches = [{"start": {"type": "branch", "parent": "base", "step": step}} for step in (1, 3)]
    kept = with_kept_steps(plan(tmp_path, *branches))
    assert [run.recipe.versions["base"].keep for run in kept] == [(1, 3)] * 2
    assert len({place["base"] for place in version_places(plan(tmp_path, *branches)).values()}) == 1


def test_runs_that_keep_other_checkpoints_average_their_own(tmp_path):
    """Where runs share a version, it keeps what any of them wants: the last two of one are not those of the other."""
    average = {
        "start": {"type": "average", "of": "base", "last": 2},
        "tokens": 0,
        "mixture": {"sources": {"a": {}}},
    }
    swept = plan(tmp_path, average)
    run = swept.runs[0]
    runs = []
    for number, keep in enumerate(((1,), (3,))):
        base = run.recipe.versions["base"].model_copy(update={"keep": keep})
        recipe = run.recipe.model_copy(update={"versions": run.recipe.versions | {"base": base}})
        runs.append(replace(run, name=f"run{number}", recipe=recipe))
    both = replace(swept, runs=runs)
    places = version_places(both)
    assert places["run0"]["base"] == places["run1"]["base"]
    assert places["run0"]["update"] != places["run1"]["update"]
    kept = with_kept_steps(both)
    assert [run.recipe.versions["base"].keep for run in kept] == [(1, 3)] * 2
    assert [averaged_steps(run.recipe, run.recipe.versions["update"].start) for run in kept] == [
        [1, 4],
        [3, 4],
    ]


def test_versions_that_the_swept_fields_decide_are_compared(tmp_path):
    assert compared_versions(plan(tmp_path, {"tokens": 256}, {"tokens": 512}, seeds=(1, 2)).runs) == [
        "update"
    ]
    assert compared_versions(plan(tmp_path, {}, seeds=(1, 2)).runs) == ["base", "update"]


def test_jobs_of_all_runs_have_what_is_shared_once(three):
    places = version_places(three)
    chain, names = sweep_jobs(three, three.runs, places)
    unique = [job.name for _, job, _ in chain]
    first, second = three.runs[0].name, three.runs[1].name
    assert len(unique) == len(set(unique)) == 1 + 2 + 3 * 3  # data; base; for each run its update and report
    assert [name for name in unique if "base" in name or "data" in name] == [
        f"{first}.{part}" for part in ("data", "prepare-base", "train-base")
    ]
    after = {job.name: job.after for _, job, _ in chain}
    for number, name in enumerate(unique):
        assert set(after[name]) <= set(unique[:number])
    # Preparations one after another; training where its version is prepared; the report where the run is trained.
    behind = {job.name: job.behind for _, job, _ in chain}
    assert behind[f"{second}.prepare-update"] == (f"{first}.prepare-update",)
    assert f"{first}.prepare-update" not in after[f"{second}.prepare-update"]  # it may fail
    assert f"{first}.train-base" in after[f"{second}.prepare-update"]
    assert after[f"{second}.train-update"] == (f"{second}.prepare-update",)
    assert after[f"{second}.report"] == (f"{first}.train-base", f"{second}.train-update")
    assert names[second]["train-base"] == f"{first}.train-base"
    data = next(job for _, _, job in chain if job.name == "data")
    assert data.command[-2:] == ("--out", str(three.directory))
    place = places[first]["base"]
    place.mkdir(parents=True)
    link(three, three.runs[0], places[first])
    finish(place, {})
    record_data(three.runs[0].recipe, {})
    assert not any("base" in job.name for _, job, _ in sweep_jobs(three, three.runs[:1], places)[0])


def test_reports_that_measure_a_shared_version_on_other_text_get_what_ranks_need(three):
    other = three.runs[2].recipe.model_copy(deep=True)
    other.sources["b"].reader.__dict__["path"] = "other"
    runs = [*three.runs[:2], replace(three.runs[2], recipe=other)]
    plan = replace(three, runs=runs)
    places = version_places(plan)
    assert len({found["base"] for found in places.values()}) == 1
    chain, _ = sweep_jobs(plan, runs, places, ranks=2)
    reports = [job for _, job, _ in chain if job.name.endswith(".report")]
    assert [job.gpus for job in reports] == [False, False, True]
    assert all(job.command[-2:] == ("--ranks", "2") for job in reports)


def merged_keys(out, start, **changes) -> str:
    recipe = make(out, **changes)
    merge = {"start": {"type": "merge"} | start, "tokens": 0}
    tree = recipe.model_dump(mode="json")
    return version_keys(Recipe.model_validate(tree | {"versions": tree["versions"] | {"merged": merge}}), {})[
        "merged"
    ]


def test_a_merge_is_the_same_where_all_its_parents_and_its_shares_are(tmp_path):
    weights = {"base": 0.5, "update": 0.5}
    plain = merged_keys(tmp_path, {"weights": weights})
    assert merged_keys(tmp_path / "elsewhere", {"weights": weights}) == plain
    fitted = {"versions": ["base", "update"], "fitted": {"old": "a"}}
    others = [
        merged_keys(tmp_path, {"weights": {"base": 0.25, "update": 0.75}}),
        merged_keys(tmp_path, {"weights": dict(reversed(weights.items()))}),  # it follows the other one
        merged_keys(tmp_path, {"weights": weights}, update={"tokens": 512}),
        merged_keys(tmp_path, fitted),
        merged_keys(tmp_path, fitted, evaluation__max_tokens=9),
    ]
    assert len({plain, *others}) == 1 + len(others)
