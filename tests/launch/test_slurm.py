"""The batch scripts: what they say, and that a shell takes every value literally."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import ValidationError

from perdure.launch.chain import Job, jobs
from perdure.launch.launch import fitted, hours
from perdure.launch.slurm import render
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.data.backends.slurm_scripts import log_options
from perdure.pipeline.recipe import RecipeSource
from perdure.pipeline.recipe.cluster import Cluster, JobSize
from tests.launch.scripts import NASTY, TRAIN, commands, launched


def test_a_training_script(tmp_path):
    recipe = launched(
        tmp_path,
        slurm={"partition": "gpu", "account": "lab", "time_limit": "1-00:00:00", "options": ["--exclusive"]},
        container={"image": "/images/perdure.sqsh", "mounts": ["/data:/data", "/scratch"]},
        setup="module load cuda\nulimit -n 65536",
        environment={"NCCL_DEBUG": "WARN"},
        network_interface="ib0",
        grace_seconds=240,
    )
    file, text = render(TRAIN, recipe, JobSize(4, 8, 8), Path("/home/me"), "python")
    assert file == tmp_path / "versions" / "v" / "launch" / "train-v.sbatch"
    options = {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert options == {
        f"--job-name=perdure-{recipe.name}-train-v",
        "--nodes=4",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--signal=USR1@240",
        "--requeue",
        "--partition=gpu",
        "--account=lab",
        "--time=1-00:00:00",
        "--exclusive",
        "--open-mode=append",
        f"--output={tmp_path}/versions/v/launch/train-v.log",
    }
    lines = text.splitlines()
    assert lines[
        lines.index(
            "# Sets NCCL_DEBUG and runs cluster.setup. `perdure launch` hands the values over; no file holds them."
        )
        + 1
    ] == ('eval "${PERDURE_SETUP?is not set; submit by perdure launch, or export it}"')
    assert recipe.cluster.handed_over == "export NCCL_DEBUG=WARN\nmodule load cuda\nulimit -n 65536\n"
    assert "WARN" not in text and "module" not in text
    assert "export NCCL_SOCKET_IFNAME=ib0" in lines and "export GLOO_SOCKET_IFNAME=ib0" in lines
    container = "--container-image=/images/perdure.sqsh --container-mounts=/data:/data,/scratch"
    assert f'ranks() {{ srun --kill-on-bad-exit=1 {container} python -m perdure.launch.rank "$@"; }}' in lines
    assert 'ranks preflight "$VERSION" && ranks train "$VERSION"' in lines


def test_jobs_of_one_node_are_not_tried_again_and_have_a_core_for_every_worker(tmp_path):
    recipe = launched(tmp_path, slurm={"partition": "gpu", "cpu_partition": "cpu", "cpus_per_task": 12})
    _, text = render(Job("data", ("data", "my recipe.yaml")), recipe, JobSize(4, 8, 8), Path("/"), "python")
    lines = text.splitlines()
    assert "#SBATCH --partition=cpu" in lines and "#SBATCH --no-requeue" in lines
    assert f"#SBATCH --cpus-per-task={recipe.data.workers}" in lines
    assert lines[-1] == "srun --ntasks=1 python -m perdure.pipeline.cli data 'my recipe.yaml'"
    assert "gpus" not in text


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=NASTY, image=NASTY, mount=NASTY, place=NASTY.filter(lambda text: len(text.encode()) < 60))
def test_a_shell_takes_every_value_literally(tmp_path, value, image, mount, place):
    directory = tmp_path / ("x" + place.replace("/", "_"))
    version = directory / "versions" / "v"
    (version / "launch").mkdir(parents=True, exist_ok=True)
    recipe = launched(directory, environment={"VALUE": value}, container={"image": image, "mounts": [mount]})
    _, text = render(TRAIN, recipe, JobSize(2, 0, 1), directory, "/opt/my python")
    statuses = [("scontrol", 0)]
    handed = {"PERDURE_SETUP": recipe.cluster.handed_over}
    status, *calls = commands(text, tmp_path, handed, statuses)
    assert status == 0
    container = [f"--container-image={image}", f"--container-mounts={mount}"]
    runs = [call for call in calls if call[0] == "srun"]
    begin, preflight, train, end = (call[1] for call in runs)
    python = ["/opt/my python", "-m"]
    assert begin[2:] == [
        *container,
        *python,
        *("perdure.launch.attempt", "begin", str(version), "--max-restarts", "20", "--patience", "3"),
    ]
    rank = ["--kill-on-bad-exit=1", *container, *python, "perdure.launch.rank"]
    assert preflight == [*rank, "preflight", str(version)]
    assert train == [*rank, "train", str(version)]
    assert end[2:] == [*container, *python, "perdure.launch.attempt", "end", str(version)]
    for _, _, environment, cwd in runs:
        assert environment["VALUE"] == value
        assert environment["SRUN_CPUS_PER_TASK"] == "2"
        assert Path(cwd) == directory.resolve()
    assert list(version.glob("launch/*")) == [version / "launch" / "train-v.log"]


@given(folder=NASTY)
def test_sbatch_is_told_of_the_log_where_it_reads_the_path_as_it_is(folder):
    """In a script's options, blanks, quotes, backslashes and `#` mean something to sbatch; `%` does anywhere."""
    options = log_options(Path("/x", folder), "slurm_", "%A.log")
    path = str(Path("/x", folder, "slurm_"))
    plain = path.isprintable() and not set(path) & set(" \t\"'\\#$`;&|<>(){}[]*?!~^")
    assert options[0] == "--open-mode=append" and all("\n" not in option for option in options)
    for option in options[1:]:
        assert plain and option == f"--output={path.replace('%', '%%')}%A.log"


def test_a_log_is_told_to_sbatch_wherever_paths_are_plain():
    assert log_options(Path("/a/50%j_x@1"), "train-v.log")[1:] == ["--output=/a/50%%j_x@1/train-v.log"]
    assert log_options(Path("/läufe/日本"), "train-v.log")[1:] == ["--output=/läufe/日本/train-v.log"]
    assert log_options(Path("/my runs"), "train-v.log") == ["--open-mode=append"]


def test_a_version_that_is_not_whole_goes_back_into_the_queue(tmp_path):
    (tmp_path / "versions" / "v" / "launch").mkdir(parents=True)
    text = render(TRAIN, launched(tmp_path), JobSize(2, 0, 1), tmp_path, "python")[1]
    # Let the attempt begin, and find the version not whole at its end.
    end = 'attempt end "$VERSION"\n'
    assert end in text
    taken_over = commands(text.replace(end, "(exit 3)\n"), tmp_path)
    assert taken_over[0] == 1 and "requeue" not in [call[1][0] for call in taken_over[1:]]
    text = text.replace(end, "(exit 1)\n")
    status, *calls = commands(text, tmp_path)
    assert status == 1
    assert [call[1] for call in calls if call[0] == "scontrol"][-1] == ["requeue", "7"]
    refused = commands(text, tmp_path, statuses=[("srun", 1)])
    assert refused[0] == 1 and [call[0] for call in refused[1:]] == ["scontrol", "srun"]  # host names; begin


@pytest.mark.parametrize(
    "cluster",
    [
        {"slurm": {"partition": "gpu; rm"}},
        {"slurm": {"account": "a\nb"}},
        {"slurm": {"time_limit": "1 day"}},
        {"slurm": {"options": ["--comment=a b"]}},
        {"slurm": {"options": ["exclusive"]}},
        {"environment": {"A B": "1"}},
        {"environment": {"A": "nul\0"}},
        {"network_interface": "$(id)"},
    ],
)
def test_what_cannot_be_quoted_is_refused(cluster):
    with pytest.raises(ValidationError):
        Cluster.model_validate(cluster)


def test_data_parallel_follows_from_the_nodes(tmp_path, recipe_file):
    recipe = fitted(
        RecipeSource(recipe_file, ["parallel.tensor_parallel=2"], tmp_path / "o"), JobSize(2, 4, 4)
    )
    assert recipe.parallel.data_parallel == 4 and recipe.directory.is_absolute()
    with pytest.raises(RecipeError, match="should divide the 9 ranks of 3 nodes x 3"):
        fitted(RecipeSource(recipe_file, ["parallel.tensor_parallel=2"], tmp_path / "o"), JobSize(3, 3, 3))


def test_the_recipe_overrules_the_site(tmp_path, recipe_file):
    site = tmp_path / "site.yaml"
    site.write_text("slurm: {partition: big, account: team}\nnetwork_interface: ib0\n")
    recipe = fitted(
        RecipeSource(recipe_file, ["cluster.slurm.partition=small"], tmp_path / "o", site), JobSize(1, 0, 1)
    )
    assert recipe.cluster.slurm.partition == "small"
    assert recipe.cluster.slurm.account == "team" and recipe.cluster.network_interface == "ib0"
    own = {"cluster": {"slurm": {"partition": "mine"}, "network_interface": "eth7"}}
    recipe_file.write_text(json.dumps(json.loads(recipe_file.read_text()) | own))
    recipe = fitted(RecipeSource(recipe_file, [], tmp_path / "o", site), JobSize(1, 0, 1))
    assert recipe.cluster.slurm.partition == "mine" and recipe.cluster.network_interface == "eth7"
    assert recipe.cluster.slurm.account == "team"  # what the recipe leaves open
    site.write_text("slurm: {partitoin: big}\n")
    with pytest.raises(RecipeError, match=r"cluster.slurm.partitoin.*did you mean `partition`"):
        fitted(RecipeSource(recipe_file, [], tmp_path / "o", site), JobSize(1, 0, 1))


def test_a_time_limit_without_quotes_is_told_to_take_them(tmp_path, recipe_file):
    site = tmp_path / "site.yaml"
    for text, problem in (
        (
            "24:00:00",
            "slurm.time_limit = '24:00:00': should be 86400 (YAML counts to the base of 60 here), or '24:00:00' in "
            "quotes if it is text",
        ),
        (
            "90",
            'cluster.slurm.time_limit = 90: should stand in quotes, as "24:00:00": without them YAML reads a number',
        ),
    ):
        site.write_text(f"slurm: {{time_limit: {text}}}\n")
        with pytest.raises(RecipeError) as refused:
            fitted(RecipeSource(recipe_file, [], tmp_path / "o", site), JobSize(1, 0, 1))
        assert [str(found) for found in refused.value.problems] == [problem]
    site.write_text('slurm: {time_limit: "24:00:00"}\n')
    recipe = fitted(RecipeSource(recipe_file, [], tmp_path / "o", site), JobSize(1, 0, 1))
    assert recipe.cluster.slurm.time_limit == "24:00:00"


def test_printing_writes_nothing(tmp_path, recipe_file):
    command = [sys.executable, "-m", "perdure.pipeline.cli", "launch", str(recipe_file), "--to", "slurm"]
    out = tmp_path / "out"
    done = subprocess.run([*command, "--out", str(out), "--print"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("#!/bin/bash") == len(["data", "prepare", "train", "report"])
    assert not out.exists()
    if not any((Path(folder) / "sbatch").exists() for folder in os.environ["PATH"].split(os.pathsep)):
        refused = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
        assert refused.returncode == 1 and "sbatch: not found" in refused.stderr


def test_a_path_cannot_leave_the_comment_that_names_it(tmp_path, recipe_file):
    command = [
        sys.executable,
        "-m",
        "perdure.pipeline.cli",
        "launch",
        str(recipe_file),
        "--to",
        "slurm",
        "--print",
    ]
    out = tmp_path / "a\n#b\x1b[31m$(touch evil)"
    printed = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=True).stdout
    headers = [line for line in printed.splitlines() if line.startswith("# ==> ")]
    assert len(headers) == 4 and all(r"a\n#b\x1b[31m$(touch evil)" in line for line in headers)


def test_every_job_has_a_script_that_bash_can_read(tmp_path, recipe_file):
    recipe = fitted(RecipeSource(recipe_file, [], tmp_path / "o"), JobSize(1, 0, 1))
    for job in jobs(recipe, recipe_file):
        text = render(job, recipe, JobSize(1, 0, 1), tmp_path, "python")[1]
        assert subprocess.run(["bash", "-n"], input=text.encode()).returncode == 0


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("90", 1.5), ("90:00", 1.5), ("4:00:00", 4), ("2-12", 60), ("1-0:30", 24.5), ("1-00:00:36", 24.01)],
)
def test_hours_of_a_time_limit_as_sbatch_reads_it(limit, expected):
    assert hours(limit) == pytest.approx(expected)
