"""`perdure launch`: what is written and submitted, with stand-ins for Slurm's commands."""

import pytest

from perdure.launch.launch import fitted, launch
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.recipe import RecipeSource
from perdure.pipeline.recipe.cluster import Cluster, JobSize

SIZE = JobSize(1, 0, 1)
JOBS = ["data", "prepare-base", "train-base", "prepare-other", "train-other", "report"]


@pytest.fixture
def recipe(tmp_path, recipe_file):
    """Two versions that do not need one another."""
    other = "versions.other={start: {type: init}, tokens: 4096, mixture: {sources: {prose: {}}}, "
    other += "schedule: {type: cosine, max_lr: 0.01, min_lr: 0.001}}"
    return fitted(RecipeSource(recipe_file, [other], tmp_path / "o"), SIZE)


def submitted(tmp_path) -> list[str]:
    return (tmp_path / "submitted").read_text().splitlines()


def test_launched_again_a_chain_goes_on_beside_what_runs(tmp_path, recipe, queue, said):
    launch(recipe, "slurm", SIZE, tmp_path, None)
    ids = dict(zip(JOBS, map(str, range(1, 7))))
    assert read_json(recipe.directory / "launch" / "jobs.json")["jobs"] == ids
    assert not [line for line in said if "earlier launch" in line]
    queue({"3": "RUNNING"})  # base trains; other failed, and the report was cancelled
    launch(recipe, "slurm", SIZE, tmp_path, None)
    names = [line.rpartition("/")[2] for line in submitted(tmp_path)[6:]]
    assert names == ["prepare-other.sbatch", "train-other.sbatch", "report.sbatch"]
    assert "--dependency=afterok:3:8" in submitted(tmp_path)[-1]
    again = {"train-base": "3", "prepare-other": "7", "train-other": "8", "report": "9"}
    assert read_json(recipe.directory / "launch" / "jobs.json")["jobs"] == again
    assert "in the queue from an earlier launch, not submitted again: train-base" in said
    queue({"7": "PENDING", "8": "PENDING", "9": "PENDING", "3": "RUNNING"})
    launch(recipe, "slurm", SIZE, tmp_path, None)
    assert len(submitted(tmp_path)) == 9
    queue({})
    launch(recipe, "slurm", SIZE, tmp_path, None)
    assert len(submitted(tmp_path)) == 15


@pytest.mark.parametrize(
    "now",
    [
        ({"3": "RUNNING", "5": "COMPLETING"},),
        ({"3": "PENDING"}, "DependencyNeverSatisfied"),
        # What it waits for has left the queue already, and the scheduler has not looked yet.
        (
            {"3": "RUNNING", "6": "PENDING"},
            "Dependency",
            {"6": "afterok:3(unfulfilled),afterok:5(unfulfilled)"},
        ),
    ],
)
def test_nothing_is_made_to_wait_for_jobs_that_leave_the_queue(tmp_path, recipe, queue, now):
    launch(recipe, "slurm", SIZE, tmp_path, None)
    queue(*now)
    with pytest.raises(
        PerdureError, match="of an earlier launch are just leaving the queue; launch again when"
    ):
        launch(recipe, "slurm", SIZE, tmp_path, None)
    assert len(submitted(tmp_path)) == 6
    queue({"3": "RUNNING", "6": "PENDING"}, "Dependency", {"6": "afterok:3(unfulfilled)"})
    launch(recipe, "slurm", SIZE, tmp_path, None)


def test_another_recipe_is_refused_while_jobs_of_the_first_run(tmp_path, recipe, queue):
    launch(recipe, "slurm", SIZE, tmp_path, None)
    kept = (recipe.directory / "launch" / "recipe.yaml").read_bytes()
    queue({"3": "RUNNING", "6": "PENDING"})
    changed = recipe.model_copy(update={"seed": recipe.seed + 1})
    with pytest.raises(PerdureError) as refused:
        launch(changed, "slurm", SIZE, tmp_path, None)
    assert str(refused.value) == (
        f"{recipe.directory}: train-base, report of an earlier launch wait or run, and the recipe has changed since; wait for "
        "them, or: scancel 3 6"
    )
    assert (recipe.directory / "launch" / "recipe.yaml").read_bytes() == kept
    assert len(submitted(tmp_path)) == 6
    queue(None)
    with pytest.raises(PerdureError, match="squeue: no answer; it should say whether jobs of"):
        launch(recipe, "slurm", SIZE, tmp_path, None)
    queue({})
    launch(changed, "slurm", SIZE, tmp_path, None)
    assert len(submitted(tmp_path)) == 12


@pytest.mark.parametrize(("kind", "lines"), [("jobset", 0), ("trainjob", 1)])
def test_a_trainjob_says_whose_its_restarts_are(tmp_path, recipe, kind, lines, said):
    kubernetes = {"kind": kind, "volumes": [{"claim": "shared", "path": str(tmp_path)}]}
    cluster = Cluster.model_validate({"container": {"image": "perdure:1"}, "kubernetes": kubernetes})
    launch(recipe.model_copy(update={"cluster": cluster}), "k8s", SIZE, tmp_path, None)
    line = "restarts of a TrainJob are its runtime's (torch-distributed); cluster.max_restarts holds for kind: jobset"
    assert said.count(line) == lines
