"""A recipe as a chain of jobs."""

from pathlib import Path

import pytest
from tiny import tiny_recipe

from perdure.launch.chain import jobs
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.record import measured_on, record_data
from perdure.pipeline.recipe import Recipe, SlurmArrays

FILE = Path("launched.yaml")


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """base; then an expert (reference), an update that needs both, and a control that needs base alone."""
    start = {"type": "update", "parent": "base"}
    mixture = {"sources": {"code": {}}}
    schedule = {"type": "cosine", "max_lr": 0.01, "min_lr": 0.001}
    common = {"tokens": 4096, "schedule": schedule}
    return tiny_recipe(
        tmp_path,
        versions={
            "base": common | {"start": {"type": "init"}, "mixture": mixture},
            "expert": common | {"start": start, "mixture": mixture},
            "update": common | {"start": start, "mixture": mixture, "selection": {"reference": "expert"}},
            "control": common | {"start": start, "mixture": mixture},
        },
    )


def test_every_job_stands_after_those_it_waits_for(recipe):
    chain = jobs(recipe, FILE)
    names = [job.name for job in chain]
    assert names[0] == "data" and names[-1] == "report"
    for number, job in enumerate(chain):
        assert set(job.after) <= set(names[:number])


def test_versions_wait_for_the_models_they_need_and_for_no_others(recipe):
    after = {job.name: set(job.after) for job in jobs(recipe, FILE)}
    assert after["prepare-base"] == {"data"}
    assert after["prepare-update"] == {"prepare-expert", "train-base", "train-expert"}
    assert after["prepare-control"] == {"prepare-update", "train-base"}  # trains beside update
    assert after["train-update"] == {"prepare-update"}
    assert after["report"] == {"train-base", "train-expert", "train-update", "train-control"}


def test_a_merge_waits_for_all_that_it_is_made_of(recipe):
    start = {
        "type": "merge",
        "weights": {"control": 0.5, "update": 0.5},
        "method": "task_arithmetic",
        "base": "base",
    }
    tree = recipe.model_dump(mode="json")
    tree["versions"]["merged"] = {"start": start, "tokens": 0}
    chain = {job.name: job for job in jobs(Recipe.model_validate(tree), FILE)}
    assert {"train-control", "train-update", "train-base"} <= set(chain["prepare-merged"].after)
    assert not chain["prepare-merged"].gpus and chain["train-merged"].ranks


def test_only_ranks_and_scoring_use_gpus(recipe):
    gpus = {job.name for job in jobs(recipe, FILE) if job.gpus}
    assert gpus == {f"train-{name}" for name in recipe.versions} | {"prepare-update"}


def test_nothing_is_scored_for_a_selection_of_all_tokens(recipe):
    """With k = 1 the reference has nothing to decide, so that preparing asks for no GPUs."""
    update = recipe.versions["update"]
    whole = update.model_copy(update={"selection": update.selection.model_copy(update={"k": 1.0})})
    changed = recipe.model_copy(update={"versions": recipe.versions | {"update": whole}})
    assert recipe.versions["update"].needs_scores and not whole.needs_scores
    assert {job.name for job in jobs(changed, FILE) if job.gpus} == {
        f"train-{name}" for name in recipe.versions
    }


def test_with_arrays_all_jobs_but_training_only_wait(recipe):
    data = recipe.data.model_copy(update={"executor": SlurmArrays(type="slurm")})
    chain = jobs(recipe.model_copy(update={"data": data}), FILE)
    assert {job.name for job in chain if job.gpus} == {f"train-{name}" for name in recipe.versions}
    waiting = {job.name for job in chain if job.coordinates}
    assert waiting == {"data", "report"} | {f"prepare-{name}" for name in recipe.versions}
    assert [job.after for job in chain] == [job.after for job in jobs(recipe, FILE)]


def test_finished_versions_are_left_out(recipe):
    record_data(recipe, {})
    finish(recipe.directory / "versions" / "base", {})
    chain = {job.name: job.after for job in jobs(recipe, FILE)}
    assert "train-base" not in chain and "prepare-base" not in chain
    assert chain["prepare-expert"] == ("data",)
    for name in recipe.versions:
        finish(recipe.directory / "versions" / name, {})
    assert [(job.name, job.after) for job in jobs(recipe, FILE)] == [("data", ()), ("report", ("data",))]


def test_versions_that_are_measured_again_get_what_ranks_need(recipe):
    record_data(recipe, {})
    assert jobs(recipe, FILE, 4)[-1].command == ("eval", str(FILE), "--ranks", "4")
    assert not jobs(recipe, FILE, 4)[-1].gpus
    directory = recipe.directory / "versions" / "base"
    finish(directory, {})
    assert jobs(recipe, FILE, 4)[-1].gpus
    write_json(directory / "eval.json", {"measured": measured_on(recipe, {})})
    assert not jobs(recipe, FILE, 4)[-1].gpus


def test_what_stands_in_the_queue_keeps_its_place_and_what_it_waited_for_is_left_out(recipe):
    """`expert` failed while `base` trained on; what needs `expert` was cancelled."""
    after = {job.name: job.after for job in jobs(recipe, FILE, live=("train-base",))}
    assert after == {
        "train-base": (),
        "prepare-expert": ("train-base",),
        "train-expert": ("prepare-expert",),
        "prepare-update": ("prepare-expert", "train-base", "train-expert"),
        "train-update": ("prepare-update",),
        "prepare-control": ("prepare-update", "train-base"),
        "train-control": ("prepare-control",),
        "report": ("train-base", "train-expert", "train-update", "train-control"),
    }
    everything = [job.name for job in jobs(recipe, FILE)]
    assert [job.name for job in jobs(recipe, FILE, live=everything)] == everything
    assert [job.name for job in jobs(recipe, FILE, live=("prepare-base", "train-base"))] == everything[1:]
