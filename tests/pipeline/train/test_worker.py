"""Whole trainings of a tiny version in real processes: resume, k = 1, exported models, what a failure says."""

import json
import os
import re
import signal
import subprocess
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import metrics, on_rank, start_ranks, stopped_at, wandb_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import prepare_version, random_documents, tiny_recipe, write_data

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model.huggingface import weights_reader
from perdure.pipeline.model.layout import layout_of

pytestmark = pytest.mark.slow
SELECTION = {"k": 0.6, "reference": "/unused"}


def trained(recipe, **options):
    directory = prepare_version(recipe, **options)
    outcome = start_ranks(directory, layout_of(recipe).world_size)
    assert outcome.returncode == 0, outcome.stderr
    return directory, outcome.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    recipe = tiny_recipe(
        tmp_path_factory.mktemp("whole"), training__document_mask=True, versions__v1__selection=SELECTION
    )
    return trained(recipe, scored=True)


@pytest.mark.parametrize("layout", [{"precision": "fp32"}, {"precision": "bf16", "data_parallel": 2}])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, whole, layout):
    ranks = layout.get("data_parallel", 1)
    parallel = {"data_parallel": ranks, "distributed_optimizer": ranks > 1}
    changes = {
        "parallel": parallel,
        "training__precision": layout["precision"],
        "training__document_mask": True,
        "versions__v1__selection": SELECTION,
        "evaluation__interval": 3,
    }
    # `whole` is not measured on the way: looking changes nothing.
    if layout["precision"] == "fp32":
        expected = whole[0]
        changes["logging"] = {"wandb": {"project": "tests", "mode": "offline"}}
    else:
        # Its threshold is a part of what is saved.
        changes["versions__v1__selection"] = SELECTION | {"scope": "global_lagged"}
        expected = trained(tiny_recipe(tmp_path / "whole", **changes), scored=True)[0]
    cut = prepare_version(tiny_recipe(tmp_path / "cut", **changes), scored=True)
    # Step 13: the checkpoint of step 10 is whole, and more is lost than a step.
    assert stopped_at(cut, ranks, "trainer:train_step:13", signal.SIGKILL).returncode == -signal.SIGKILL
    outcome = start_ranks(cut, ranks)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 10" in outcome.stdout
    assert (
        read_json(cut / "version.json")["weights_hash"]
        == read_json(expected / "version.json")["weights_hash"]
    )
    if "logging" in changes:
        rows = [row for run in (cut / "wandb").glob("offline-run-*") for row in wandb_rows(run)]
        logged = {row["step"]: row["loss/all"] for row in rows if "loss/all" in row}
        told = {line["step"]: line["loss"] for line in metrics(cut)}
        resumed = int(re.search(r"resume at step (\d+)", outcome.stdout)[1])
        # Wandb writes every 15 seconds: a kill loses what it has not written.
        assert logged.items() <= told.items() and set(logged) >= set(range(resumed + 1, 21))
    # What the kill lost is counted; on CPUs a rank has one thread here.
    record = read_json(cut / "version.json")
    lines = metrics(cut)
    ends = [0, *(line["tokens"] for line in lines)]
    seconds = sum(
        (end - start) / line["tokens_per_second"] for (start, end), line in zip(pairwise(ends), lines)
    )
    assert record["device"] == "cpu" and record["device_seconds"] == pytest.approx(ranks * seconds)
    assert record["lost_device_seconds"] >= 0
    for left, right in zip(metrics(expected), metrics(cut), strict=True):
        ignored = {"tokens_per_second"} | ({"heldout_before", "heldout_on"} if ranks == 1 else set())
        assert (right["heldout_before"] is not None) == (right["step"] % 3 == 1)
        assert {k: v for k, v in left.items() if k not in ignored} == {
            k: v for k, v in right.items() if k not in ignored
        }


def test_tensorboard_and_metrics_tell_the_same(whole):
    directory, stdout = whole
    board = EventAccumulator(str(directory / "tb"))
    board.Reload()
    lines = metrics(directory)
    for tag, read in {
        "loss/all": lambda line: line["loss"],
        "loss/selected": lambda line: line["loss_selected"],
        "loss/unselected": lambda line: line["loss_unselected"],
        "train/lr": lambda line: line["lr"],
        "train/grad_norm": lambda line: line["grad_norm"],
        "train/selected_fraction": lambda line: line["selected_fraction"],
        "loss_by_source/b": lambda line: line["source_loss"]["b"],
    }.items():
        events = board.Scalars(tag)
        assert [event.step for event in events] == list(range(1, 21))
        np.testing.assert_allclose(
            [event.value for event in events], [read(line) for line in lines], rtol=1e-6
        )
    assert {"train/tokens_per_second", "heldout_loss/a", "heldout_bits_per_byte/b"} <= set(
        board.Tags()["scalars"]
    )
    assert "init: 46,752 random weights (seed 1234); reset: optimizer, schedule, plan" in stdout
    assert "ETA" in stdout


def test_k_of_one_is_the_plain_loss_bit_for_bit(tmp_path):
    plain, _ = trained(tiny_recipe(tmp_path / "plain"))
    selective, _ = trained(
        tiny_recipe(tmp_path / "k1", versions__v1__selection={"k": 1.0, "reference": "/unused"})
    )
    assert (
        read_json(plain / "version.json")["weights_hash"]
        == read_json(selective / "version.json")["weights_hash"]
    )
    assert [line["loss"] for line in metrics(plain)] == [line["loss"] for line in metrics(selective)]


def test_lines_on_the_console_are_about_the_steps_since_the_last(whole):
    directory, stdout = whole
    lines = [{"step": 0, "tokens": 0}, *metrics(directory)]
    told = re.findall(r"^step +(\d+)/20 .* ([\d,]+) tokens/s  ETA (\d+):(\d\d)$", stdout, re.MULTILINE)
    assert [int(step) for step, *_ in told] == [5, 10, 15, 20]
    for step, rate, minutes, seconds in told:
        since = list(pairwise(lines))[int(step) - 5 : int(step)]
        took = sum((line["tokens"] - before["tokens"]) / line["tokens_per_second"] for before, line in since)
        tokens = since[-1][1]["tokens"] - since[0][0]["tokens"]
        assert int(rate.replace(",", "")) == round(tokens / took)
        assert int(minutes) * 60 + int(seconds) >= (20 - int(step)) * took / 5 - 1
    assert told[-1][2:] == ("0", "00")


def test_exported_logits_equal_the_trainers(whole):
    from transformers import AutoModelForCausalLM

    directory, _ = whole
    tokens = torch.arange(64).view(2, 32) * 3 % 299 + 1
    found = torch.tensor(on_rank("checkpoint_logits", directory, tokens.tolist()))
    model = AutoModelForCausalLM.from_pretrained(directory / "hf")
    with torch.no_grad():
        expected = model(tokens).logits
    assert expected.shape[-1] == 300
    torch.testing.assert_close(found[..., :300], expected, rtol=0, atol=1e-4)


def test_an_update_starts_from_exactly_the_exported_weights(whole, tmp_path):
    recipe = tiny_recipe(
        tmp_path, versions__v1__start={"type": "update", "parent": "v0"}, versions__v1__tokens=256
    )
    directory = prepare_version(recipe)
    inputs = read_json(directory / "inputs.json") | {"initial_weights": str(whole[0] / "hf"), "parent": "v0"}
    (directory / "inputs.json").write_text(json.dumps(inputs))
    found = on_rank("initial_tensor", directory, "model.layers.3.self_attn.k_proj.weight")
    expected = weights_reader(whole[0] / "hf")("model.layers.3.self_attn.k_proj.weight")
    assert torch.equal(torch.tensor(found), expected)


def test_scoring_the_reference_with_itself_gives_no_excess_loss(whole, tmp_path):
    """Under document masks the trainer sees what the scorer saw, for every document that starts in the sample."""
    from perdure.pipeline.data.score.score import ReferenceModel, score_source

    data = write_data(
        tmp_path / "data" / "own",
        [random_documents(3, 30, 300)],
        random_documents(4, 3, 300),
        300,
        hash_file(whole[0] / "hf" / "tokenizer.json"),
    )
    scores = score_source(data, ReferenceModel(whole[0] / "hf", "self", 32), workers=1)
    excess = np.array(on_rank("own_excess_loss", whole[0], str(data), str(scores)))
    assert len(excess) > 300
    assert np.abs(excess).max() <= 1e-3


def test_a_diverging_run_stops_with_one_readable_line_and_saves_nothing_of_it(tmp_path):
    recipe = tiny_recipe(
        tmp_path,
        training__clip_grad=0,
        versions__v1__schedule={"type": "cosine", "max_lr": 1e30, "min_lr": 1e30, "warmup": 0},
    )
    directory = prepare_version(recipe)
    outcome = start_ranks(directory, 1)
    assert outcome.returncode != 0
    assert "error: version v1: loss" in outcome.stderr and "Lower schedule.max_lr" in outcome.stderr
    assert "Traceback" not in outcome.stderr.split("error: version v1")[0]
    assert not (directory / "version.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_one_line_and_loses_nothing(whole, tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(tmp_path)], check=True)
    try:
        recipe = tiny_recipe(
            tmp_path / "out", training__document_mask=True, versions__v1__selection=SELECTION
        )
        directory = prepare_version(recipe, scored=True)
        free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
        filler = tmp_path / "filler"
        filler.write_bytes(bytes(free - 400_000))
        outcome = start_ranks(directory, 1)
        assert outcome.returncode != 0
        assert "the disk is full" in outcome.stderr
        filler.unlink()
        outcome = start_ranks(directory, 1)
        assert outcome.returncode == 0, outcome.stderr
        assert (
            read_json(directory / "version.json")["weights_hash"]
            == read_json(whole[0] / "version.json")["weights_hash"]
        )
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
