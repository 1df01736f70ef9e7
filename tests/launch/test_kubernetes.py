"""Manifests for Kubernetes: their shape by the operators' own models, and values that arrive literally."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_recipe

from perdure.launch.kubernetes import literal, render
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.cluster import Cluster, JobSize

SIZE = JobSize(nodes=2, gpus_per_node=8, ranks_per_node=8)
FULL = {
    "container": {"image": "registry.example/perdure:1"},
    "environment": {"NCCL_DEBUG": "WARN"},
    "network_interface": "eth0",
    "kubernetes": {
        "namespace": "lab",
        "volumes": [{"claim": "shared", "path": "/shared"}],
        "service_account": "trainer",
        "node_selector": {"gpu": "h100"},
        "cpu": "64",
        "memory": "512Gi",
    },
}


def launched(kind: str = "jobset", **cluster) -> Recipe:
    recipe = tiny_recipe(Path("/shared/run"))
    tree = FULL | cluster
    tree["kubernetes"] = FULL["kubernetes"] | {"kind": kind} | cluster.get("kubernetes", {})
    return recipe.model_copy(update={"out": Path("/shared/run"), "cluster": Cluster.model_validate(tree)})


def manifest(recipe: Recipe, directory: str = "/shared", nodes: int = SIZE.nodes) -> dict:
    return yaml.safe_load(render(recipe, replace(SIZE, nodes=nodes), directory))


def test_a_jobset_runs_stage_after_stage():
    stages = manifest(launched())["spec"]["replicatedJobs"]
    assert [stage["name"] for stage in stages] == ["s0-data", "s1-prepare-v1", "s2-train-v1", "s3-report"]
    assert "dependsOn" not in stages[0]
    for before, stage in itertools.pairwise(stages):
        assert stage["dependsOn"] == [{"name": before["name"], "status": "Complete"}]
    specs = [stage["template"]["spec"] for stage in stages]
    assert [spec["completions"] for spec in specs] == [spec["parallelism"] for spec in specs] == [1, 1, 2, 1]
    containers = [spec["template"]["spec"]["containers"][0] for spec in specs]
    gpus = [container["resources"]["limits"].get("nvidia.com/gpu") for container in containers]
    assert gpus == [None, None, "8", None]
    values = {entry["name"]: entry.get("value") for entry in containers[2]["env"]}
    assert values["PERDURE_MASTER_ADDR"] == "perdure-tiny-s2-train-v1-0-0.perdure-tiny"
    assert (values["PERDURE_NODES"], values["PERDURE_RANKS_PER_NODE"]) == ("2", "8")
    assert values["GLOO_SOCKET_IFNAME"] == "eth0"


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
@pytest.mark.parametrize("nodes", [1, 2, 11, 4096])
def test_names_fit_into_host_names(kind, nodes):
    """JobSet's webhook appends five letters to the last pod's name, and refuses more than 63 in all."""

    def names(name: str) -> str:
        tree = launched(kind).model_copy(update={"name": name})
        versions = {"a-version-with-a-long-name-too": tree.versions["v1"]}
        found = manifest(tree.model_copy(update={"versions": versions}), nodes=nodes)
        stages = [stage["name"] for stage in found["spec"].get("replicatedJobs", [{"name": "node"}])]
        assert len(set(stages)) == len(stages)
        assert not [stage for stage in stages if stage.endswith("-")]
        for stage in stages:
            assert len(f"{found['metadata']['name']}-{stage}-0-{nodes - 1}-abcde") <= 63
        return found["metadata"]["name"]

    long = "a-recipe-with-a-very-long-name-indeed-that-nobody-can-remember"
    assert names(long) != names(long + "-2") and names(long).startswith("perdure-a-recipe-wi")
    for cut in range(1, len(long)):
        assert not names(long[:cut]).endswith("-")
    assert names("tiny_") == "perdure-tiny"


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_the_operators_models_keep_every_field(kind):
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="pip install kubeflow-trainer-api")
    found = manifest(launched(kind, **({} if kind == "trainjob" else {"kubernetes": {"secrets": ["hub"]}})))
    model = models.JobsetV1alpha2JobSet if kind == "jobset" else models.TrainerV1alpha1TrainJob
    assert model.from_dict(found).to_dict() == found


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"container": None}, "cluster.container"),
        ({"kubernetes": {"volumes": []}}, "out"),
        ({"kubernetes": {"kind": "trainjob", "secrets": ["hub"]}}, "cluster.kubernetes.secrets"),
    ],
)
def test_what_would_lose_a_run_is_refused(changes, path):
    with pytest.raises(RecipeError) as caught:
        manifest(launched(**changes))
    assert [problem.path for problem in caught.value.problems] == [path]


def expand(text: str, variables: dict[str, str]) -> str:
    """What Kubernetes makes of `$(NAME)` and `$$` in commands and environments (its API reference, `Container`)."""
    out, position = "", 0
    while position < len(text):
        if text.startswith("$$", position):
            out, position = out + "$", position + 2
        elif text.startswith("$(", position) and (end := text.find(")", position)) > 0:
            name = text[position + 2 : end]
            out, position = out + variables.get(name, text[position : end + 1]), end + 1
        else:
            out, position = out + text[position], position + 1
    return out


ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NASTY = st.one_of(
    ANY, st.sampled_from(["$(HOME)", "$$(HOME)", "$$$", "`id`", "'\"", "a\nb", "; exit 3", "-n"])
)


@given(NASTY)
def test_literal_survives_expansion(text):
    assert expand(literal(text), {"HOME": "expanded"}) == text


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=NASTY, place=NASTY.filter(lambda text: len(text.encode()) < 60))
def test_pods_take_every_value_literally(tmp_path, value, place):
    directory = tmp_path / ("x" + place.replace("/", "_"))
    directory.mkdir(exist_ok=True)
    recipe = launched(environment={"VALUE": value}, setup="export FROM_SETUP=$(echo shell)")
    recipe = recipe.model_copy(update={"out": Path("/shared/" + "x" + place.replace("/", "_"))})
    stage = manifest(recipe, str(directory))["spec"]["replicatedJobs"][2]
    container = stage["template"]["spec"]["template"]["spec"]["containers"][0]
    environment = {
        entry["name"]: expand(entry["value"], {"HOME": "expanded"})
        for entry in container["env"]
        if "value" in entry
    }
    assert "VALUE" not in environment
    (reference,) = (entry["valueFrom"] for entry in container["env"] if entry["name"] == "PERDURE_SETUP")
    secret, _ = yaml.safe_load_all(render(recipe, SIZE, "/shared", values=True))
    assert reference == {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "PERDURE_SETUP"}}
    assert secret["metadata"]["namespace"] == "lab"
    environment |= secret["stringData"]
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    dump = 'import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), os.environ["FROM_SETUP"], os.environ["VALUE"]]))'
    (tools / "python").write_text(f"#!{sys.executable}\n{dump}\n")
    (tools / "python").chmod(0o755)
    command = [expand(word, {"HOME": "expanded"}) for word in container["command"]]
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, env=os.environ | environment | {"PATH": path}, capture_output=True, text=True, timeout=60
    )
    version = str(recipe.directory / "versions" / "v1")
    assert json.loads(done.stdout) == [
        ["-m", "perdure.launch.node", version],
        str(directory.resolve()),
        "shell",
        value,
    ]
