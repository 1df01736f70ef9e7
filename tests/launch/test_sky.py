"""SkyPilot's task: what it asks for, and values that a shell takes literally."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_recipe

from perdure.launch.sky import render
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.cluster import Cluster, JobSize

SIZE = JobSize(nodes=2, gpus_per_node=8, ranks_per_node=8)
RECORD = """#!{python} -IS
import json, os, sys
with open({file!r}, "w") as file:
    json.dump([sys.argv[1:], dict(os.environ), os.getcwd()], file)
"""
NASTY = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
    st.sampled_from(["a b", "'", '"', "$(touch x)", "`id`", ";exit 3", "\n", "- x: y", "#", "-n", "\\"]),
)


def task(out: Path, directory: str, **cluster) -> dict:
    cluster = {"sky": {"accelerator": "H100", "mount": str(out.parent)}} | cluster
    recipe: Recipe = tiny_recipe(out).model_copy(
        update={"out": out, "cluster": Cluster.model_validate(cluster)}
    )
    return yaml.safe_load(render(recipe, SIZE, directory))


def test_a_task_of_all_machines(tmp_path):
    sky = {"accelerator": "H100", "mount": str(tmp_path), "volume": "runs", "use_spot": True, "infra": "aws"}
    found = task(tmp_path / "run", "/home/me", sky=sky, container={"image": "registry.example/perdure:1"})
    assert found["num_nodes"] == 2 and found["volumes"] == {str(tmp_path): "runs"}
    assert found["resources"] == {
        **{"accelerators": "H100:8", "use_spot": True, "infra": "aws"},
        **{"image_id": "docker:registry.example/perdure:1", "job_recovery": {"max_restarts_on_errors": 20}},
    }


@pytest.mark.parametrize(
    ("sky", "path"),
    [({"mount": "/elsewhere", "accelerator": "H100"}, "out"), ({}, "cluster.sky.accelerator")],
)
def test_what_would_fail_or_lose_a_run_is_refused(tmp_path, sky, path):
    with pytest.raises(RecipeError) as refused:
        task(tmp_path / "run", "/", sky={"mount": str(tmp_path)} | sky)
    assert [problem.path for problem in refused.value.problems] == [path]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=NASTY, place=NASTY.filter(lambda text: len(text.encode()) < 60))
def test_a_shell_takes_every_value_literally(tmp_path, value, place):
    out, tools = tmp_path / ("x" + place.replace("/", "_")), tmp_path / "tools"
    out.mkdir(exist_ok=True)
    tools.mkdir(exist_ok=True)
    (tools / "python").write_text(RECORD.format(python=sys.executable, file=str(tmp_path / "seen")))
    (tools / "python").chmod(0o755)
    found = task(out, str(out), environment={"VALUE": value})
    assert found["secrets"] == {"PERDURE_SETUP": None}
    handed = Cluster.model_validate({"environment": {"VALUE": value}}).handed_over
    path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    given = os.environ | found["envs"] | path | {"PERDURE_SETUP": handed}
    done = subprocess.run(["bash"], input=found["run"].encode(), env=given)
    arguments, environment, cwd = json.loads((tmp_path / "seen").read_text())
    assert done.returncode == 0
    assert arguments == ["-m", "perdure.launch.node", "--recipe", str(out / "launch" / "recipe.yaml")]
    assert environment["VALUE"] == value and environment["PERDURE_RANKS_PER_NODE"] == "8"
    assert Path(cwd) == out
    assert [entry.name for entry in out.iterdir()] == []


def test_values_are_shown_to_whoever_asks_and_written_to_no_file(tmp_path):
    recipe = tiny_recipe(tmp_path / "run")
    cluster = {"sky": {"accelerator": "H100", "mount": str(tmp_path)}, "environment": {"TOKEN": "s3cret"}}
    recipe = recipe.model_copy(update={"cluster": Cluster.model_validate(cluster)})
    written, printed = (render(recipe, SIZE, "/", values) for values in (False, True))
    assert "s3cret" not in written
    assert yaml.safe_load(printed)["secrets"] == {"PERDURE_SETUP": "export TOKEN=s3cret\n"}
