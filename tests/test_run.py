"""Whole recipes through the command line: finish, skip, refuse, survive."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pyarrow import parquet
from run_recipe import outcome, perdure, said_in, timeless, write_recipe
from soak import often
from support import at_point

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.model.huggingface import weights_hash

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    result = perdure("run", recipe, "--out", out)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_a_run_ends_with_a_report_and_a_loadable_model(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, stdout = finished
    report = read_json(out / "report.json")
    assert [version["id"] for version in report["versions"]] == ["base", "update"]
    base, update = report["versions"]
    for version, steps in ((base, 12), (update, 16)):  # padding is no token
        record = read_json(out / "versions" / version["id"] / "version.json")
        assert record["budget_tokens"] == 64 * 8 * steps
        assert 0.5 * 64 * 8 * steps < version["tokens"] <= 64 * 8 * steps
        assert sum(report["consumed"][version["id"]].values()) == version["tokens"]
    assert update["lineage_tokens"] == base["tokens"] + update["tokens"]
    # A sixth of what is read is replay, which is a quarter of what is trained on.
    replay = update["replay"]
    assert (replay["read"], replay["trained"]) == (pytest.approx(1 / 6), pytest.approx(0.25))
    assert replay["measured"] == pytest.approx(0.25, abs=0.05)
    assert report["consumed"]["update"]["replay/prose"] == pytest.approx(64 * 8 * 16 / 6, rel=0.3)
    assert report["versions"][1]["selected_fraction"] == pytest.approx(0.6, abs=0.01)
    row = dict(
        zip(
            [domain["name"] if isinstance(domain, dict) else domain for domain in report["domains"]],
            report["loss_matrix"][-1],
        )
    )
    assert row["code"] == read_json(out / "versions/update/eval.json")["domains"]["code"]["loss"]
    assert (out / "report/index.html").exists()
    assert "update of base: restored: weights; reset: optimizer, schedule, plan" in stdout
    model = AutoModelForCausalLM.from_pretrained(out / "versions/update/hf")
    tokenizer = AutoTokenizer.from_pretrained(out / "versions/update/hf")
    assert model.generate(**tokenizer("import", return_tensors="pt"), max_new_tokens=3).shape[1] > 3


def test_heldout_documents_are_in_no_training_shard(finished):
    out, _ = finished
    split: dict[str, set] = {"train": set(), "heldout": set()}
    for path in out.glob("data/*@*/docs.parquet"):
        for row in parquet.read_table(path, columns=["split", "hash"]).to_pylist():
            split[row["split"]].add(row["hash"])
    assert split["train"] and split["heldout"] and not split["train"] & split["heldout"]


def test_a_second_run_skips_everything(recipe, finished):
    out, _ = finished
    before = outcome(out)
    result = perdure("run", recipe, "--out", out)
    assert result.returncode == 0, result.stderr
    assert (
        "version base: finished, skipped" in result.stdout
        and "version update: finished, skipped" in result.stdout
    )
    assert outcome(out) == before


def test_a_changed_recipe_is_refused_naming_what_differs(recipe, finished):
    out, _ = finished
    result = perdure("run", recipe, "--out", out, "--set", "versions.update.schedule.max_lr=0.02")
    assert result.returncode == 1
    assert "version update" in result.stderr and "schedule.max_lr: 0.01 -> 0.02" in result.stderr
    assert len(said_in(result.stderr)) == 1


def test_a_new_source_leaves_finished_versions_and_measures_them_on_it(recipe, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    tree = yaml.safe_load(recipe.read_text())
    tree["sources"]["more"] = tree["sources"]["code"] | {
        "reader": {"type": "python_code", "packages": ["email"]}
    }
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(tree))
    before = {
        path.parent.name: read_json(path)["weights_hash"] for path in out.glob("versions/*/version.json")
    }
    result = perdure("eval", tmp_path / "more.yaml", "--out", out)
    assert result.returncode == 0, result.stderr
    assert "version base: finished; other held-out documents, so it is measured again" in result.stdout
    assert before == {
        path.parent.name: read_json(path)["weights_hash"] for path in out.glob("versions/*/version.json")
    }
    matrix = read_json(out / "report.json")["loss_matrix"]
    assert all(loss is not None for row in matrix for loss in row) and len(matrix[0]) == 3
    own = out / "versions/update/eval.json"  # stays: what it was measured on as it was trained
    assert hash_file(own) == hash_file(finished[0] / "versions/update/eval.json")
    old, (later,) = read_json(own)["domains"], out.glob("versions/update/eval@*/eval.json")
    new = read_json(later)["domains"]
    assert new["code"] == old["code"] and new["prose"] == old["prose"]


def test_export_copies_the_model_and_refuses_to_overwrite(finished, tmp_path):
    out, _ = finished
    result = perdure("export", out, "update", "--to", tmp_path / "model")
    assert result.returncode == 0, result.stderr
    assert hash_file(tmp_path / "model/model.safetensors") == hash_file(
        out / "versions/update/hf/model.safetensors"
    )
    again = perdure("export", out, "update", "--to", tmp_path / "model")
    assert again.returncode == 1 and "already exists" in again.stderr


def test_a_kept_checkpoint_is_exported(finished, tmp_path):
    """The last one holds the version's own weights; an earlier one holds others."""
    out, _ = finished
    hashes = {}
    for step in (12, 16):
        result = perdure("export", out, "update", "--step", step, "--to", tmp_path / str(step))
        assert result.returncode == 0, result.stderr
        hashes[step] = weights_hash(tmp_path / str(step))
    assert hashes[16] == read_json(out / "versions/update/version.json")["weights_hash"] != hashes[12]
    for name in ("config.json", "tokenizer.json"):
        assert hash_file(tmp_path / "12" / name) == hash_file(out / "versions/update/hf" / name)
    result = perdure("export", out, "update", "--step", 3, "--to", tmp_path / "3")
    assert result.returncode == 1 and "no such checkpoint; kept: " in result.stderr and "16" in result.stderr
    result = perdure("export", out, "updat", "--to", tmp_path / "none")
    assert result.returncode == 1 and "has base, update" in result.stderr


def test_import_says_what_is_understood_and_refuses_what_is_incomplete(finished, tmp_path):
    out, _ = finished
    shutil.copytree(out / "versions/update/hf", tmp_path / "model")
    result = perdure("import", tmp_path / "model")
    assert result.returncode == 0, result.stderr
    section = {"type": "huggingface", "path": str(tmp_path / "model")}
    assert yaml.safe_load(result.stdout) == {"model": section, "tokenizer": section}
    assert "# parallel.tensor_parallel: 1, 2\n" in result.stdout
    assert "# tokenizer: BPE, 400 tokens; documents end in '<|endoftext|>'" in result.stdout
    config = read_json(tmp_path / "model/config.json")
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"intermediate_size": 60}))
    result = perdure("import", tmp_path / "model")
    assert result.returncode == 1
    assert "gate_proj.weight is [64, 32]; `config.json` asks for [60, 32]" in result.stderr
    assert len(said_in(result.stderr)) == 1


def test_two_commands_do_not_work_in_one_directory(recipe, tmp_path):
    command = [sys.executable, "-m", "perdure.pipeline.cli", "run", str(recipe), "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not (tmp_path / "work").exists():
            assert first.poll() is None
            time.sleep(0.02)
        second = perdure("data", recipe, "--out", tmp_path)
        job = subprocess.Popen(
            [*command[:3], "data", *command[4:]],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"SLURM_JOB_ID": "1"},
        )
        said = job.stdout.readline()
        first.kill()
    assert second.returncode == 1
    assert "another perdure command is working here" in second.stderr
    # Its chain would be lost with it.
    assert said == f"{tmp_path}: another perdure command is working here; waiting for it\n"
    assert "tokens to train on" in job.communicate()[0] and job.returncode == 0


POINTED = """
import os, sys
import pointed
from perdure.pipeline.cli import entry
from perdure.pipeline.train import ranks
ranks.WORKER = "pointed"
if "perdure.pipeline.train" not in os.environ["PERDURE_TEST_POINT"]:
    pointed.stop_at(os.environ["PERDURE_TEST_POINT"], os.getpid())
sys.exit(entry.main(sys.argv[1:]))
"""


def run_to(point: str, sent: signal.Signals, recipe: Path, out: Path) -> subprocess.CompletedProcess:
    """`perdure run`, to which a signal comes at a point of `perdure.pipeline`: in rank 0, or in the command itself."""
    command = [sys.executable, "-c", POINTED, "run", str(recipe), "--out", str(out)]
    environment = os.environ | at_point(f"perdure.pipeline.{point}", sent)
    return subprocess.run(command, env=environment, capture_output=True, text=True, process_group=0)


def test_a_signal_ends_the_command_with_status_0_and_the_next_one_goes_on(recipe, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    shutil.rmtree(out / "versions/update")
    # Ctrl-C saves nothing, and only the first of all processes speaks.
    interrupted = run_to("train.trainer:train_step:3", signal.SIGINT, recipe, out)
    assert interrupted.returncode == 130
    assert said_in(interrupted.stderr) == ["interrupted; run the same command again to go on"]
    shutil.rmtree(out / "versions/update")
    # During a step, and during the evaluation after the last one.
    for point, sent in {
        "trainer:train_step:3": signal.SIGTERM,
        "evaluate:evaluate:1": signal.SIGUSR1,
    }.items():
        stopped = run_to(f"train.{point}", sent, recipe, out)
        assert stopped.returncode == 0
        assert f"stopped by {sent.name}" in stopped.stdout.splitlines()[-1]
        assert not is_finished(out / "versions/update")
    shown = perdure("check", recipe, "--out", out).stdout
    assert "Version base: init, finished" in shown and "Version update: update of base\n" in shown
    assert "; 16 steps to do" in shown
    refused = perdure("check", recipe, "--out", out, "--set", "seed=77")
    assert refused.returncode == 2
    assert f"versions.base = '{out}/versions/base': was made from something else; set the" in refused.stderr
    result = perdure("run", recipe, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "resume at step 16" in result.stdout
    assert outcome(out) == outcome(finished[0])


POINTS = [
    "data.backends.local:LocalExecutor.run:2",  # tasks of the data stage: those of the first pipeline are done
    "run.run:build_plan:1",
    "train.trainer:train_step:7",  # of base, after its first checkpoint
    "train.evaluate:evaluate:1",  # after its last step
    "data.backends.local:LocalExecutor.run:1",  # scoring
    "train.trainer:train_step:10",  # of update
    "train.checkpoint:Checkpoints.save:2",  # while the one before may be written
    "run.run:write_report:1",
]
"""Functions of `perdure.pipeline`, and at which call of a rank or of the command all are killed."""


@pytest.mark.timeout(1200)
def test_killed_at_every_stage_it_ends_as_if_undisturbed(recipe, finished, tmp_path):
    out = tmp_path / "out"
    for point in often(POINTS[::2], POINTS):
        killed = run_to(point, signal.SIGKILL, recipe, out)
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr)
    result = perdure("run", recipe, "--out", out)
    assert result.returncode == 0, result.stderr
    assert outcome(out) == outcome(finished[0])
    # The same seed gives the same report, byte for byte.
    assert timeless(out) == timeless(finished[0])
