"""Arrays of the data stage, and jobs that wait for them."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from perdure.launch.chain import Job
from perdure.launch.slurm import render
from perdure.pipeline.data.backends.slurm_scripts import array_script
from perdure.pipeline.recipe.cluster import JobSize
from tests.launch.scripts import NASTY, TRAIN, commands, launched, with_arrays


@pytest.mark.parametrize(("scoring", "partition"), [(False, "cpu"), (True, "gpu")])
def test_an_array_asks_for_what_one_task_needs(tmp_path, scoring, partition):
    slurm = {"partition": "gpu", "cpu_partition": "cpu", "time_limit": "4:00:00", "options": ["--exclusive"]}
    recipe = with_arrays(launched(tmp_path, slurm=slurm))
    text = array_script(
        recipe, "data.a@1.scores.my model@2.score", scoring, tmp_path / "a.sbatch", ("m", "f")
    )
    options = {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert options == {
        f"--job-name=perdure-{recipe.name}-data.a@1.scores.my_model@2.score",
        *("--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--requeue"),
        *(("--gpus-per-node=1",) if scoring else ()),
        *(f"--partition={partition}", "--time=4:00:00", "--mem-per-cpu=8G"),
        *("--open-mode=append", f"--output={tmp_path}/logs/slurm_%A_%a.log"),
    }
    assert text.splitlines()[-1] == f"exec {sys.executable} -m m f"  # no step of its own


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=NASTY, image=NASTY, place=NASTY.filter(lambda text: len(text.encode()) < 60), name=NASTY)
def test_an_array_takes_every_value_literally(tmp_path, value, image, place, name):
    directory = tmp_path / ("x" + place.replace("/", "_"))
    (directory / "logs").mkdir(parents=True, exist_ok=True)
    recipe = with_arrays(launched(directory, environment={"VALUE": value}, container={"image": image}))
    pickle = str(directory / "executor.pik")
    text = array_script(recipe, name, False, directory / "array.sbatch", ("module", pickle), directory)
    ids = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}
    ids |= {"PERDURE_SETUP": recipe.cluster.handed_over}
    status, (srun, arguments, environment, cwd) = commands(text, tmp_path, ids)
    assert (status, srun) == (0, "srun") and Path(cwd) == directory.resolve()
    assert arguments == ["--ntasks=1", f"--container-image={image}", "python", "-m", "module", pickle]
    assert environment["VALUE"] == value and environment["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
    assert [log.name for log in directory.glob("logs/*")] == ["slurm_9_3.log"]


def test_a_job_that_waits_for_arrays_goes_back_into_the_queue_before_its_time_is_over(tmp_path):
    recipe = with_arrays(launched(tmp_path, slurm={"partition": "gpu", "cpu_partition": "cpu"}))
    (tmp_path / "launch").mkdir()
    job = Job("data", ("data", "my recipe.yaml"), coordinates=True)
    text = render(job, recipe, JobSize(4, 8, 8), tmp_path, "python")[1]
    lines = text.splitlines()
    assert "#SBATCH --signal=B:USR1@300" in lines and "#SBATCH --requeue" in lines
    assert "#SBATCH --cpus-per-task=1" in lines and "#SBATCH --partition=cpu" in lines
    status, srun = commands(text, tmp_path)
    assert (status, srun[1][1:]) == (0, ["python", "-m", "perdure.pipeline.cli", "data", "my recipe.yaml"])
    assert commands(text, tmp_path, statuses=[("srun", 3)])[0] == 3
    signalled = text.replace('wait "$!"', 'kill -USR1 $$; wait "$!"')
    status, *calls = commands(signalled, tmp_path)
    assert status == 1 and ["requeue", "7"] in [call[1] for call in calls if call[0] == "scontrol"]


@pytest.mark.parametrize("export", ["NONE", "ALL", "HOME"])
def test_what_a_site_lets_jobs_inherit_does_not_keep_settings_from_steps(tmp_path, export):
    """Slurm sets this one in a job, and `srun` reads it as --export: steps would not get what the script sets."""
    recipe = launched(tmp_path, environment={"NCCL_DEBUG": "WARN"})
    arrays = with_arrays(recipe)
    for folder in ("launch", "logs", "versions/v/launch"):
        (tmp_path / folder).mkdir(parents=True)
    data = Job("data", ("data", "recipe.yaml"), coordinates=True)
    texts = [
        render(TRAIN, recipe, JobSize(2, 0, 1), tmp_path, "python")[1],
        render(Job("report", ("report", "recipe.yaml")), recipe, JobSize(1, 0, 1), tmp_path, "python")[1],
        render(data, arrays, JobSize(1, 0, 1), tmp_path, "python")[1],
        array_script(arrays, "a", False, tmp_path / "a.sbatch", ("module", "file"), tmp_path),
    ]
    handed = {"PERDURE_SETUP": recipe.cluster.handed_over, "SLURM_EXPORT_ENV": export}
    handed |= {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}
    texts[-1] = texts[-1].replace(f"exec {sys.executable} -m module file", "srun module file")
    for text in texts:
        _, *calls = commands(text, tmp_path, handed)
        steps = [environment for name, _, environment, _ in calls if name == "srun"]
        assert steps and all("SLURM_EXPORT_ENV" not in environment for environment in steps)
        assert all(environment["NCCL_DEBUG"] == "WARN" for environment in steps)
