"""A sweep's chains, handed to Slurm."""

import pytest

from perdure.launch.sweep import submit_sweep
from perdure.pipeline.core.errors import PerdureError, RecipeError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.recipe import RecipeSource
from perdure.pipeline.recipe.cluster import JobSize
from perdure.pipeline.run.sweep.spec import SweepPlan, load_sweep

SIZE = JobSize(1, 0, 1)


@pytest.fixture
def plan(tmp_path, recipe_file, monkeypatch) -> SweepPlan:
    """Of two values, by a file that is called as its recipe's copy once was."""
    (tmp_path / "base.yaml").write_text("recipe: recipe.yaml\nover: {training.clip_grad: [1, 2]}\n")
    return load_sweep(RecipeSource(tmp_path / "base.yaml", out=tmp_path / "o"), size=SIZE)


def test_the_tables_job_reads_the_sweep_and_its_recipe(plan, queue, tmp_path):
    submit_sweep(plan, SIZE, tmp_path, None)
    script = (tmp_path / "o" / "launch" / "sweep.sbatch").read_text()
    file = tmp_path / "o" / "launch" / "base.yaml"
    assert script.splitlines()[-1].endswith(f"cli sweep {file} --report")
    found = load_sweep(RecipeSource(file), checked=False)
    assert [run.name for run in found.runs] == ["clip_grad=1", "clip_grad=2"]
    assert found.base == plan.base and found.directory == plan.directory


def test_a_sweep_is_refused_while_its_jobs_run(plan, queue, tmp_path):
    submit_sweep(plan, SIZE, tmp_path, None)
    jobs = tmp_path / "o" / "runs" / "clip_grad=2" / "launch" / "jobs.json"
    ids, submitted = read_json(jobs)["jobs"], (tmp_path / "submitted").read_text()
    queue({ids["train-base"]: "RUNNING"})
    with pytest.raises(
        PerdureError, match=f"those of clip_grad=2; wait for them, or: scancel {ids['train-base']}$"
    ):
        submit_sweep(plan, SIZE, tmp_path, None)
    assert (tmp_path / "submitted").read_text() == submitted
    with pytest.raises(RecipeError, match="--ranks-per-node = 16: should be at most --gpus-per-node"):
        submit_sweep(plan, JobSize(1, 8, 16), tmp_path, None)
    queue({})
    submit_sweep(plan, SIZE, tmp_path, None)
    assert len((tmp_path / "submitted").read_text().splitlines()) == 2 * len(submitted.splitlines())
