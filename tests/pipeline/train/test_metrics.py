"""What a run tells while it runs, and tells again after a restart."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from support import metrics, wandb_rows
from tiny import tiny_recipe

from perdure.pipeline.checks.check import problems
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.train.counts import Counts
from perdure.pipeline.train.metrics import Recorder, StepResult
from perdure.pipeline.train.mirror import open_run
from perdure.pipeline.train.progress import console_line, model_flop_utilisation

OFFLINE = {"wandb": {"project": "tests", "mode": "offline"}}


def record(recorder, step, seconds=0.5):
    counts = Counts(
        tokens=[192.0, 64.0],
        loss=[192.0 * 4 / step, 64.0 * 2],
        selected_tokens=100.0,
        selected_loss=300.0,
        unscored_tokens=0.0,
        stream="0",
        selection="0",
        threshold=None,
    )
    heldout = {"a": 5.0 + step} if step % 2 else None
    recorder.step(
        StepResult(step, 256 * step, 280 * step, 0.1, 1.0, counts, seconds, None, True, heldout=heldout)
    )


def test_losses_of_a_step_by_their_sums(tmp_path):
    """192 tokens of `a` cost 4 nats each, 64 that are replayed 2: 3.5 a token, and 3 as a mean over sources."""
    recorder = Recorder(tmp_path, 0, ("a", "replay/b", "c"))
    counts = Counts([192.0, 64.0, 0.0], [768.0, 128.0, 0.0], 100.0, 300.0, 8.0, "0", "1")
    line = recorder.step(StepResult(1, 256, 280, 0.1, 1.0, counts, 0.5, None, True))
    recorder.close()
    assert (line["loss"], line["loss_macro"]) == (3.5, 3.0)
    assert line["source_loss"] == {"a": 4.0, "replay/b": 2.0}
    assert (line["loss_selected"], line["loss_unselected"]) == (3.0, 468 / 92)
    assert (line["selected_fraction"], line["selected_tokens"]) == (100 / 192, 100)
    assert (line["replayed_tokens"], line["trained_tokens"], line["unscored_tokens"]) == (64, 164, 8)
    assert line["tokens_per_second"] == 512 and (line["tokens"], line["budget_tokens"]) == (256, 280)


@pytest.mark.parametrize("mean", [0.25, None])
def test_a_divergence_is_told_beside_the_losses(tmp_path, mean):
    recorder = Recorder(tmp_path, 0, ("a", "b"))
    counts = Counts([192.0, 64.0], [768.0, 128.0], 256.0, 896.0, 0.0, "0", "1")
    line = recorder.step(StepResult(1, 256, 280, 0.1, 1.0, counts, 0.5, scalars={"kl": mean}))
    recorder.close()
    assert "kl" in line and line["kl"] == mean and line["loss"] == 3.5
    assert ("KL 0.2500" in console_line(line, 100, [(256, 0.5)], 0.0)) == (mean is not None)


def test_steps_that_a_kill_lost_count_in_the_cost(tmp_path):
    recorder = Recorder(tmp_path, 0, ("a", "replay/b"), devices=4)
    for step in range(1, 6):
        record(recorder, step)
    recorder.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "tok')  # killed in the middle of a line
    assert recorder.lost_device_seconds == 0
    recorder = Recorder(tmp_path, 3, ("a", "replay/b"), devices=4)
    assert recorder.lost_device_seconds == 2 * 0.5 * 4 and len(metrics(tmp_path)) == 3
    record(recorder, 4, seconds=2.0)
    recorder.close()
    # Killed before the next checkpoint: what was lost before is not forgotten.
    recorder = Recorder(tmp_path, 3, ("a", "replay/b"), devices=8)
    assert recorder.lost_device_seconds == 4 + 2.0 * 8
    recorder.close()


def test_lines_that_a_checkpoint_knows_of_are_not_lost_in_silence(tmp_path):
    version = tmp_path / "versions" / "v1"
    version.mkdir(parents=True)
    recorder, path = Recorder(version, 0, ("a", "replay/b")), version / "metrics.jsonl"
    for step in range(1, 4):
        record(recorder, step)
    recorder.close()
    told, whole = recorder.told.hexdigest(), path.read_bytes()
    for damage in (b"", whole[:-1], whole.replace(b"5.0", b"6.0"), b'{"step": 1}\n', None):
        path.unlink(missing_ok=True)
        if damage is not None:
            path.write_bytes(damage)
        reason = "missing" if damage is None else "damaged: up to step 3"
        with pytest.raises(
            PerdureError, match=rf"metrics.jsonl: {reason}.*copy it again, or `echo '\{{\}}' >"
        ):
            Recorder(version, 3, ("a", "replay/b"), told=told)
        path.write_bytes(whole)
    Recorder(version, 3, ("a", "replay/b"), told=told).close()
    assert path.read_bytes() == whole
    subprocess.run(f"echo '{{}}' > {path}", shell=True, check=True)
    recorder = Recorder(version, 3, ("a", "replay/b"), told=told)
    record(recorder, 4)
    recorder.close()
    assert [line["step"] for line in metrics(version)] == [4]
    Recorder(version, 4, ("a", "replay/b"), told=recorder.told.hexdigest()).close()


def test_weights_and_biases_is_told_what_tensorboard_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    recipe = tiny_recipe(tmp_path, logging=OFFLINE)
    for first in (0, 3):  # killed after step 4, it goes on from step 3
        recorder = Recorder(tmp_path, first, ("a", "replay/b"), run=open_run(recipe, "v1", tmp_path))
        recorder.mixture(first + 1, {"a": 0.75})
        for step in range(first + 1, first + 5):
            record(recorder, step)
        recorder.evaluation(first + 4, {"a": {"loss": 1.5, "bits_per_byte": 0.5}})
        recorder.close()
        time.sleep(1.1)  # directories are named by the second
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    (name,) = {run.name.rpartition("-")[2] for run in runs}
    assert len(runs) == 2 and read_json(tmp_path / "wandb.json") == {"id": name}
    before, after = ({}, {})
    for rows, run in ((before, runs[0]), (after, runs[1])):
        for row in wandb_rows(run):
            rows.setdefault(row["step"], {}).update(row)
    assert set(before) == {0, 1, 2, 3, 4} and set(after) == {4, 5, 6, 7}
    for line in metrics(tmp_path):
        row = (before if line["step"] <= 3 else after)[line["step"]]
        assert row["loss/all"] == line["loss"] and row["train/lr"] == line["lr"]
        assert row["loss_by_source/replay/b"] == line["source_loss"]["replay/b"]
    assert before[0] == {"step": 0, "heldout_loss/a": 6.0} | {
        key: value for key, value in before[0].items() if key.startswith("_")
    }
    assert after[4]["mixture/a"] == 0.75 and before[4]["heldout_bits_per_byte/a"] == 0.5


@pytest.mark.slow
def test_a_killed_rank_leaves_its_run_to_the_next_one(tmp_path, monkeypatch):
    """Also where a background service from before lives on: it would still hold the run."""
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    service = [sys.executable, "-m", "wandb", "beta", "core"]
    started = subprocess.run([*service, "start"], capture_output=True, text=True, check=True)
    monkeypatch.setenv("WANDB_SERVICE", started.stdout.strip())
    code = (
        "import os, sys; from pathlib import Path; from perdure.pipeline.recipe import Recipe; "
        "from perdure.pipeline.train.mirror import open_run; "
        "run = open_run(Recipe.model_validate_json(sys.argv[1]), 'v1', Path(sys.argv[2])); "
        "run.log({'step': 1}); os.kill(os.getpid(), int(sys.argv[3])) if int(sys.argv[3]) else run.finish()"
    )
    recipe = tiny_recipe(tmp_path, logging=OFFLINE).model_dump_json()
    for sent in (signal.SIGKILL, 0):
        ended = subprocess.run(
            [sys.executable, "-c", code, recipe, str(tmp_path), str(int(sent))], capture_output=True
        )
        assert ended.returncode == -sent, ended.stderr.decode()
    subprocess.run([*service, "stop"], check=True)


def test_without_the_package_or_a_key_it_is_one_line(tmp_path, monkeypatch):
    recipe = tiny_recipe(tmp_path, logging=OFFLINE)
    assert open_run(tiny_recipe(tmp_path), "v1", tmp_path) is None
    assert not [problem for problem in problems(recipe) if problem.path == "logging.wandb"]
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        (problem,) = (problem for problem in problems(recipe) if problem.path == "logging.wandb")
    assert "install `perdure[wandb]`" in problem.remedy and problem.absent
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("NETRC", str(tmp_path / "nothing"))
    online = tiny_recipe(tmp_path, logging={"wandb": {"project": "tests"}})
    with pytest.raises(
        PerdureError, match=r"logging.wandb: .*; `mode: offline` needs neither a key nor a network"
    ):
        open_run(online, "v1", tmp_path)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
    ],
)
def test_utilisation_is_of_the_peak_of_this_very_device(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert model_flop_utilisation(1000.0, peak / 1000, 4, "bf16") == pytest.approx(0.25)
    assert model_flop_utilisation(1000.0, peak / 1000, 4, "fp32") is None


def test_utilisation_is_unknown_on_other_devices(monkeypatch):
    assert model_flop_utilisation(1000.0, 1e9, 1, "bf16") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "another")
    assert model_flop_utilisation(1000.0, 1e9, 1, "bf16") is None


def test_a_console_line_is_about_the_steps_since_the_last_one():
    """However slow the first steps were; what measuring and saving took a step is part of the time that is left."""
    line = {"step": 40, "loss": 2.0, "lr": 1e-3, "grad_norm": 1.0, "loss_selected": None, "mfu": None}
    assert console_line(line, 100, [(1000, 2.0), (800, 1.0)], 0.0) == (
        "step  40/100  loss 2.0000  lr 1.00e-03  grad 1.00  600 tokens/s  ETA 1:30"
    )
    assert console_line(line, 100, [(1000, 2.0), (800, 1.0)], 4.5).endswith("600 tokens/s  ETA 6:00")
    assert console_line(line | {"step": 100}, 100, [(10, 1.0)], 4.5).endswith("  10 tokens/s  ETA 0:00")
    # Utilisation of the last step, which took a second, over the mean of both.
    assert "MFU 40%" in console_line(line | {"mfu": 0.6}, 100, [(900, 2.0), (900, 1.0)], 0.0)
