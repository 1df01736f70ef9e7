"""`perdure launch --to local`: the script, and a run whose rank dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_recipe

from perdure.launch.attempt import attempts, newest_step
from perdure.launch.launch import misfits
from perdure.launch.local import render
from perdure.launch.status import status
from perdure.pipeline.cli.entry import main
from perdure.pipeline.recipe import SlurmArrays
from perdure.pipeline.recipe.cluster import Cluster, JobSize

STEPS = 80
ONE = JobSize(nodes=1, gpus_per_node=0, ranks_per_node=1)
RECORD = """#!/bin/sh
printf '%s\\0' "$PWD" "$VALUE" "${CUDA_VISIBLE_DEVICES-unset}" "$PERDURE_RANKS_PER_NODE" "$@" > "$RECORD"
echo said
"""
NASTY = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
    st.sampled_from(["a b", "'", '"', "$(touch x)", "`id`", ";exit 3", "\n", "-n", "\\", "%"]),
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=NASTY, place=NASTY.filter(lambda text: len(text.encode()) < 60), gpus=st.sampled_from([0, 2]))
def test_a_shell_takes_every_value_literally(tmp_path, monkeypatch, value, place, gpus):
    out = tmp_path / ("x" + place.replace("/", "_"))
    (out / "launch").mkdir(parents=True, exist_ok=True)
    python = out / "my python"
    python.write_text(RECORD)
    python.chmod(0o755)
    cluster = Cluster.model_validate({"environment": {"VALUE": value}, "network_interface": "ib0"})
    recipe = tiny_recipe(out).model_copy(update={"out": out, "cluster": cluster})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        text = render(recipe, out / "launch" / "recipe.yaml", JobSize(1, gpus, 2), out)
    assert "ib0" not in text
    environment = {name: text for name, text in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    record = {"RECORD": str(tmp_path / "record"), "PERDURE_SETUP": cluster.handed_over}
    done = subprocess.run(["bash"], input=text.encode(), env=environment | record, capture_output=True)
    cwd, seen, devices, ranks, *arguments, _ = (tmp_path / "record").read_bytes().decode().split("\0")
    assert (done.returncode, done.stdout) == (0, b"said\n")
    assert (out / "launch" / "local.log").read_bytes().endswith(b"said\n")
    assert (cwd, seen, ranks) == (str(out), value, "2")
    assert devices == ("unset" if gpus else "")
    recipe_file = str(out / "launch" / "recipe.yaml")
    assert arguments == ["-m", "perdure.launch.node", "--recipe", recipe_file, "--go-on"]


def test_what_cannot_be_had_is_refused(tmp_path):
    recipe = tiny_recipe(tmp_path)

    def refused(to: str, size: JobSize = ONE, after: str | None = None, recipe=recipe) -> list[str]:
        return [str(problem) for problem in misfits(recipe, to, size, after)]

    assert (
        refused("local") == refused("slurm", JobSize(2, 8, 8), "17") == refused("k8s", JobSize(2, 8, 8)) == []
    )
    assert refused("local", JobSize(2, 0, 1)) == [
        "--nodes = 2: should be 1 with --to local, which is this machine"
    ]
    assert refused("local", JobSize(1, 999, 999))[0].startswith("--gpus-per-node = 999: this machine has ")
    for to in ("slurm", "k8s", "sky"):
        assert refused(to, JobSize(2, 8, 4)) == refused(to, JobSize(2, 0, 16)) == []
        assert refused(to, JobSize(2, 8, 16)) == [
            "--ranks-per-node = 16: should be at most --gpus-per-node (8): each rank has a GPU of its own"
        ]
    assert refused("sky", after="17") == ["--after = '17': is an id of Slurm; use it with --to slurm"]
    arrays = recipe.data.model_copy(update={"executor": SlurmArrays(type="slurm")})
    arrays = recipe.model_copy(update={"data": arrays})
    assert refused("slurm", recipe=arrays) == refused("local", recipe=arrays) == []
    assert refused("k8s", recipe=arrays) == [
        "data.executor.type = 'slurm': should be local or ray with --to k8s"
    ]


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    lines = [json.dumps({"text": f"{number} is a number to go on with " * 20}) for number in range(60)]
    (tmp_path / "prose.jsonl").write_text("\n".join(lines))
    reader = {"type": "jsonl", "path": str(tmp_path / "prose.jsonl")}
    shape = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 64}
    tree = {
        "name": "small",
        "out": str(tmp_path / "out"),
        "sources": {"prose": {"reader": reader, "clean": [], "heldout_fraction": 0.2}},
        "tokenizer": {"type": "train", "vocab_size": 300, "sources": ["prose"]},
        "model": {"type": "llama", **shape, "num_attention_heads": 4, "num_query_groups": 2},
        "training": {"seq_length": 64, "global_batch_size": 8, "checkpoint_interval": 5},
        "versions": {
            "base": {
                "start": {"type": "init"},
                "tokens": 64 * 8 * STEPS,
                "mixture": {"sources": {"prose": {}}, "max_repetition": 1000},
                "schedule": {"type": "cosine", "max_lr": 0.01, "min_lr": 0.001},
            }
        },
        "evaluation": {"max_tokens": 2000},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    return tmp_path / "recipe.yaml"


def test_printing_writes_nothing(recipe_file, capsys):
    out = recipe_file.parent / "out"
    assert main(["launch", str(recipe_file), "--to", "local", "--ranks-per-node", "2", "--print"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"# ==> {out}/launch/local.sh\n#!/bin/bash\n") and not out.exists()
    assert subprocess.run(["bash", "-n"], input=printed.encode()).returncode == 0


@pytest.mark.slow
def test_a_run_goes_on_when_a_rank_dies(recipe_file):
    out = recipe_file.parent / "out"
    version = out / "versions" / "base"
    command = [sys.executable, "-m", "perdure.pipeline.cli", "launch", str(recipe_file), "--to", "local"]
    launched = subprocess.Popen([*command, "--ranks-per-node", "2"], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while newest_step(version) < 5:
        assert launched.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    ranks = [
        child for child in psutil.Process(launched.pid).children() if "train.worker" in str(child.cmdline())
    ]
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGKILL)
    said = launched.communicate(timeout=300)[0]
    assert launched.returncode == 0, said
    assert "version base: trying again from step " in said
    assert (out / "launch" / "local.log").read_text() in said
    assert len(attempts(version)) == 2 and attempts(version)[1]["step"] >= 5
    (found,) = status(out)["versions"]
    assert (found["state"], found["step"], found["attempts"]) == ("finished", STEPS, 2)
    assert (out / "report" / "index.html").exists()
