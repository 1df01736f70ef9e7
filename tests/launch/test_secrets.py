"""Secrets in a recipe and on the command line: jobs get them, and no file holds them."""

import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import yaml
from support import start_ranks

from perdure.launch.launch import fitted
from perdure.pipeline.cli import entry
from perdure.pipeline.data.backends.slurm import SlurmExecutor
from perdure.pipeline.recipe import RecipeSource, load_recipe
from perdure.pipeline.recipe.cluster import Cluster, JobSize
from perdure.pipeline.recipe.load import shown, typed_command

SECRETS = [f"s3cr3t-{kind}" for kind in ("environment", "setup", "override", "site")]
SBATCH = """#!{python} -IS
import os, sys
with open({file!r}, "a") as file:
    file.write(repr([sys.argv[1:], os.environ.get("PERDURE_SETUP")]) + "\\n")
print(len(open({file!r}).readlines()))
"""


@pytest.fixture
def planted(tmp_path, recipe_file, monkeypatch) -> list[str]:
    """Arguments of any verb, with a secret wherever one may stand; Slurm's commands are recorders outside of the run."""
    tree = yaml.safe_load(recipe_file.read_text())
    rows = [
        {"text": " ".join(f"{seed:x}{seed * place % 997:x}" for place in range(60))} for seed in range(1, 200)
    ]
    (tmp_path / "prose.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree["cluster"] = {
        "environment": {"TOKEN": SECRETS[0], "NCCL_DEBUG": "WARN"},
        "setup": f"export KEY={SECRETS[1]}",
        "container": {"image": "registry.example/perdure:1"},
        "kubernetes": {"volumes": [{"claim": "shared", "path": str(tmp_path)}]},
        "sky": {"mount": str(tmp_path)},
    }
    recipe_file.write_text(yaml.safe_dump(tree))
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump({"environment": {"SITE": SECRETS[3]}}))
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sbatch", "squeue", "scontrol"):
        text = (
            SBATCH.format(python=sys.executable, file=str(tools / "calls"))
            if name == "sbatch"
            else "#!/bin/sh\n"
        )
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    override = f"cluster.environment.OVER={SECRETS[2]}"
    arguments = [str(recipe_file), "--set", override, "--site", str(site), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["perdure", "run", *arguments])
    return arguments


def leaks(directory: Path) -> list[str]:
    """Files below a directory, and their names, that hold any of the secrets in any encoding that files have here."""
    found = []
    for path in directory.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for secret in SECRETS:
            if any(secret.encode(code) in content for code in ("utf-8", "utf-16-le")) or secret in path.name:
                found.append(f"{path}: {secret}")
    return found


@pytest.mark.parametrize("to", ["slurm", "k8s", "sky", "local"])
def test_a_launch_writes_no_secret_and_hands_all_over(planted, tmp_path, monkeypatch, capsys, to):
    handed = {}
    monkeypatch.setattr(os, "execvp", lambda *_: handed.update(os.environ))
    monkeypatch.delenv("PERDURE_SETUP", raising=False)
    assert entry.main(["launch", *planted, "--to", to, "--ranks-per-node", "1"]) == 0
    said = capsys.readouterr()
    assert not leaks(tmp_path / "out") and not any(secret in said.out + said.err for secret in SECRETS)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) >= 2
    names = yaml.safe_load((tmp_path / "out/launch/recipe.yaml").read_text())["cluster"]["environment"]
    assert names == dict.fromkeys(["SITE", "TOKEN", "NCCL_DEBUG", "OVER"])
    if to == "slurm":
        calls = (tmp_path / "tools/calls").read_text().splitlines()
        assert len(calls) == 4 and all(secret in call for secret in SECRETS for call in calls)
        assert not any(secret in str(eval(call)[0]) for secret in SECRETS for call in calls)
    elif to == "local":
        assert all(secret in handed["PERDURE_SETUP"] for secret in SECRETS)
    else:
        assert entry.main(["launch", *planted, "--to", to, "--ranks-per-node", "1", "--print"]) == 0
        printed = capsys.readouterr().out
        assert all(secret in printed for secret in SECRETS)  # who asks for it, and wherever it goes


@pytest.mark.slow
def test_a_run_and_its_report_write_no_secret(planted, tmp_path, monkeypatch, capsys):
    def start(directory: Path, world_size: int, task: str = "train") -> None:
        outcome = start_ranks(directory, world_size, task)
        assert outcome.returncode == 0, outcome.stderr

    monkeypatch.setattr("perdure.pipeline.train.ranks.start", start)
    planted = [*planted[:3], *planted[5:]]  # without the site file, which only launches read
    for verb in ("run", "report", "check", "data", "eval"):
        assert entry.main([verb, *planted]) == 0
    said = capsys.readouterr()
    assert not leaks(tmp_path / "out") and not any(secret in said.out + said.err for secret in SECRETS)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert any("--set cluster.environment.OVER=..." in command for command in report["commands"])
    assert "TOKEN: null" in report["recipe"]


def test_in_a_job_the_recipe_has_what_was_handed_over(planted, tmp_path, monkeypatch):
    recipe = fitted(
        RecipeSource(Path(planted[0]), [planted[2]], tmp_path / "out", Path(planted[4])), JobSize(1, 0, 1)
    )
    handed = recipe.cluster.handed_over
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    in_job = load_recipe(tmp_path / "job.yaml").cluster
    monkeypatch.delenv("PERDURE_SETUP", raising=False)
    assert in_job.handed_over == "" and in_job.values == {}
    monkeypatch.setenv("PERDURE_SETUP", handed)
    for name, value in recipe.cluster.values.items():
        monkeypatch.setenv(name, value)
    assert in_job.handed_over == handed  # what it submits in turn gets it, too
    assert in_job.values == recipe.cluster.values and len(in_job.values) == 4


def test_no_pickle_holds_a_secret(planted, tmp_path):
    recipe = fitted(
        RecipeSource(Path(planted[0]), [planted[2]], tmp_path / "out", Path(planted[4])), JobSize(1, 0, 1)
    )
    executor = SlurmExecutor([], 1, recipe, False, tmp_path / "data")
    for pickled in (pickle.dumps(recipe), pickle.dumps(executor)):
        assert not any(secret.encode() in pickled for secret in SECRETS)
    assert recipe.cluster.values["TOKEN"] == SECRETS[0]  # it has them still
    assert pickle.loads(pickle.dumps(recipe)).cluster.environment["TOKEN"] is None


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ("cluster.environment={A B: s3cr3t}", "cluster.environment"),
        ("cluster.environment=[TOKEN=s3cr3t]", "cluster.environment"),
        ("cluster.setup=[s3cr3t]", "cluster.setup"),
        ("cluster=s3cr3t", "cluster"),
        ('cluster.environment={A: "s3cr3t\\0"}', "cluster.environment.A"),
    ],
)
def test_a_mistake_in_a_secret_is_shown_without_it(recipe_file, capsys, change, path):
    assert entry.main(["check", str(recipe_file), "--set", change]) == 2
    said = capsys.readouterr()
    assert f"{path} = ..." in said.err or f"{path}.A B = " in said.err
    assert "s3cr3t" not in said.out + said.err


def test_the_command_line_is_recorded_without_values_of_the_cluster(monkeypatch):
    assert shown("cluster.environment.TOKEN=a=b") == "cluster.environment.TOKEN=..."
    assert shown("--set=cluster.setup=export A=1\nexport B=2") == "--set=cluster.setup=..."
    assert shown("cluster={environment: {A: b}}") == "cluster=..."
    assert shown("cluster:={environment: {A: b}}") == "cluster:=..."
    assert shown("--set=cluster.environment:={TOKEN: a}") == "--set=cluster.environment:=..."
    assert shown("training.seq_length=128") == "training.seq_length=128"
    monkeypatch.setattr(sys, "argv", ["perdure", "run", "my recipe.yaml", "--set", "cluster.setup=secret"])
    assert typed_command() == "perdure run 'my recipe.yaml' --set cluster.setup=..."


def test_a_null_is_the_value_that_the_variable_has_here(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k3y")
    cluster = Cluster.model_validate({"environment": {"WANDB_API_KEY": None, "UNSET_HERE": None, "A": "1"}})
    assert cluster.values == {"WANDB_API_KEY": "k3y", "A": "1"}
    assert cluster.handed_over == "export WANDB_API_KEY=k3y\nexport A=1\n"
