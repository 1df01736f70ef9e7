"""Checkpoints in real processes: under other layouts, hashed as they are written, and of the right step."""

import json
import os
import shutil
from math import prod

import pytest
import yaml
from support import metrics, start_ranks
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model.layout import layout_of
from tests.pipeline.train.starters import on_checkpoint_rank

pytestmark = pytest.mark.slow


LAYOUTS = {
    "tp2_dp2": {"tensor_parallel": 2, "data_parallel": 2},
    "pp2_dp2_distributed": {"pipeline_parallel": 2, "data_parallel": 2, "distributed_optimizer": True},
    "dp2_distributed": {"data_parallel": 2, "distributed_optimizer": True},
    "one": {},
}


def half_trained(directory, parallel, precision):
    """A version with checkpoints at steps 6 and 12, trained under one layout."""
    recipe = tiny_recipe(
        directory,
        parallel=parallel,
        training__precision=precision,
        training__checkpoint_interval=6,
        versions__v1__tokens=32 * 8 * 12,
        training__async_checkpoint=False,
    )
    version = prepare_version(recipe)
    outcome = start_ranks(version, layout_of(recipe).world_size)
    assert outcome.returncode == 0, outcome.stderr
    return version


def set_layout(version, parallel):
    recipe = yaml.safe_load((version / "recipe.yaml").read_text())
    recipe["parallel"] = parallel
    (version / "recipe.yaml").write_text(yaml.safe_dump(recipe))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_companions_of_step_hooks_are_stored_under_every_layout(tmp_path, precision):
    """One that is made after loading is the weights themselves; the next two layouts load and store the same bits."""
    source = half_trained(tmp_path / "source", LAYOUTS["tp2_dp2"], precision)
    steps = {
        "pp2_dp2_distributed": "after",
        "dp2_distributed": "before",
        "one": "before",
        "tp2_dp2": "before",
    }
    for layout, companion in steps.items():
        copy = tmp_path / layout
        copy.mkdir()
        for file in ("recipe.yaml", "inputs.json"):
            shutil.copy(source / file, copy)
        set_layout(copy, LAYOUTS[layout])
        ranks = prod(size for size in LAYOUTS[layout].values() if size is not True)
        on_checkpoint_rank("copy_checkpoint", source, copy, companion, ranks=ranks)
        found = on_checkpoint_rank("checkpoint_tensors", copy)["tensors"]
        weights = "optimizer.state.fp32_param." if precision == "bf16" else ""
        kept = {name: value for name, value in found.items() if name.startswith("optimizer.state.parent.")}
        assert len(kept) > 5
        for name, value in kept.items():
            assert value == found[weights + name.removeprefix("optimizer.state.parent.")], (layout, name)
        source = copy


def test_another_layout_goes_on_and_agrees_with_a_run_that_kept_its_own(tmp_path):
    whole = half_trained(tmp_path / "whole", LAYOUTS["tp2_dp2"], "fp32")
    cut = tmp_path / "whole" / "versions" / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step_000012")
    for file in ("_SUCCESS", "version.json"):
        (cut / file).unlink()
    set_layout(cut, LAYOUTS["pp2_dp2_distributed"])

    copy = tmp_path / "copy"
    copy.mkdir()
    for file in ("recipe.yaml", "inputs.json"):
        shutil.copy(cut / file, copy)
    on_checkpoint_rank("copy_checkpoint", cut, copy, ranks=4)
    expected, found = (
        on_checkpoint_rank("checkpoint_tensors", cut),
        on_checkpoint_rank("checkpoint_tensors", copy),
    )
    assert expected == found
    names = {
        name.rsplit("linear_proj", 1)[0] for name in found["tensors"] if name.endswith("linear_proj.weight")
    }
    layers = "decoder.layers.self_attention."
    assert names == {layers, f"optimizer.state.exp_avg.{layers}", f"optimizer.state.exp_avg_sq.{layers}"}

    outcome = start_ranks(cut, 4)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 6" in outcome.stdout
    (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("the layout changed")]
    assert "tensor_parallel: 2 -> 1" in line and "equal to rounding" in line
    for left, right in zip(metrics(whole), metrics(cut), strict=True):
        assert (left["stream"], left["lr"]) == (right["stream"], right["lr"])
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-4)
    assert read_json(cut / "checkpoints" / "step_000012" / "state.json")["parallel"]["pipeline_parallel"] == 2


@pytest.mark.parametrize(("before", "after"), [("dp2_distributed", "one"), ("one", "dp2_distributed")])
def test_optimizer_states_under_bf16_are_the_same_distributed_or_not(tmp_path, before, after):
    version = half_trained(tmp_path / "before", LAYOUTS[before], "bf16")
    other = prepare_version(
        tiny_recipe(tmp_path / "after", parallel=LAYOUTS[after], training__precision="bf16")
    )
    on_checkpoint_rank("copy_checkpoint", version, other, ranks=LAYOUTS[after].get("data_parallel", 1))
    expected, found = (
        on_checkpoint_rank("checkpoint_tensors", version),
        on_checkpoint_rank("checkpoint_tensors", other),
    )
    assert expected == found
    assert any(name.startswith("optimizer.state.fp32_param.") for name in found["tensors"])


def test_padding_between_the_distributed_optimizers_buckets_shifts_nothing(tmp_path):
    """Three replicas do not divide a tied embedding of 512 x 32, which has a bucket of its own on the last stage."""
    recipe = tiny_recipe(tmp_path / "before", versions__v1__tokens=32 * 8 * 3)
    version = prepare_version(recipe)
    layout = {"pipeline_parallel": 2, "data_parallel": 3, "distributed_optimizer": True}
    other = prepare_version(tiny_recipe(tmp_path / "after", parallel=layout))
    for directory in (version, other):
        inputs = read_json(directory / "inputs.json") | {"vocab_size": 500}
        (directory / "inputs.json").write_text(json.dumps(inputs))
    assert start_ranks(version, 1).returncode == 0
    on_checkpoint_rank("copy_checkpoint", version, other, ranks=6)
    assert on_checkpoint_rank("checkpoint_tensors", other) == on_checkpoint_rank(
        "checkpoint_tensors", version
    )


def test_a_replica_saves_the_share_that_it_holds(tmp_path):
    layout = {"data_parallel": 2, "distributed_optimizer": True}
    version = prepare_version(tiny_recipe(tmp_path, parallel=layout, training__precision="bf16"))
    shares = on_checkpoint_rank("saved_shares", version, ranks=2)
    assert all(saved == own and in_place for saved, own, in_place in shares)
    parameters = 4 * (32 * (2 * 32 + 2 * 16 + 3 * 64) + 2 * 32) + 384 * 32 + 32
    assert sum(saved for saved, _, _ in shares) == 12 * parameters
    assert max(saved for saved, _, _ in shares) <= 12 * (parameters // 2 + 64)  # but for padding


def test_all_ranks_go_on_from_what_rank_0_sees(tmp_path):
    """A machine's view of a shared file system may be a minute old."""
    version = half_trained(tmp_path, LAYOUTS["dp2_distributed"], "bf16")
    recipe = yaml.safe_load((version / "recipe.yaml").read_text())
    recipe["training"]["guard"]["on_nan"] = "rollback"
    (version / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert on_checkpoint_rank("begun_and_rolled_back", version, ranks=2) == [[12, 12], [12, 12]]


def test_views_that_do_not_become_equal_end_the_run(tmp_path):
    differs, unseen = on_checkpoint_rank("differing_views", tmp_path, ranks=2)
    assert "state.json: rank 0 on" in differs and "reads step 5, rank 1 on" in differs
    assert unseen.startswith(str(tmp_path / "never"))
    assert "still does not after 0.1 s; is `out` on a file system that all machines share?" in unseen


def cut_before(version, step):
    """The version as it was before it reached a step."""
    shutil.rmtree(version / "checkpoints" / f"step_{step:06d}")
    for file in ("_SUCCESS", "version.json"):
        (version / file).unlink()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_file_of_a_checkpoint_is_hashed_as_it_is_written_and_compared_by_one_rank(
    tmp_path, asynchronous
):
    layout = {"data_parallel": 2, "distributed_optimizer": True}
    changes = {"training__checkpoint_interval": 6, "training__async_checkpoint": asynchronous}
    version = prepare_version(
        tiny_recipe(tmp_path, parallel=layout, versions__v1__tokens=32 * 8 * 12, **changes)
    )
    assert start_ranks(version, 2).returncode == 0
    checkpoint = version / "checkpoints" / "step_000006"
    names = {path.name for path in checkpoint.iterdir()} - {"hashes.json", "_SUCCESS"}
    recorded = read_json(checkpoint / "hashes.json")["files"]
    assert recorded == {
        name: {"bytes": (checkpoint / name).stat().st_size, "sha256": hash_file(checkpoint / name)}
        for name in names
    }
    assert sum(name.endswith(".distcp") for name in names) >= 2
    cut_before(version, 12)

    file = max(checkpoint.glob("__1_*.distcp"), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    for damaged, said in (
        (bytes([content[0]]) + bytes([content[1] ^ 1]) + content[2:], "damaged: SHA-256"),
        (content[:-7], "truncated"),
        (b"", "truncated: 0 of"),
    ):
        file.write_bytes(damaged)
        outcome = start_ranks(version, 2)
        assert outcome.returncode == 1 and "Traceback" not in outcome.stderr, outcome.stderr
        assert f"error: {file}: {said}" in outcome.stderr
        assert f"; delete {checkpoint} to go on from an earlier checkpoint" in outcome.stderr
    file.write_bytes(content)

    # One from before hashes were recorded is loaded, with a word on it; if it cannot be, that is one line, too.
    (checkpoint / "hashes.json").rename(tmp_path / "hashes.json")
    os.truncate(file, 100)
    outcome = start_ranks(version, 2)
    assert outcome.returncode == 1 and "Traceback" not in outcome.stderr, outcome.stderr
    assert f"error: {checkpoint}: cannot be loaded" in outcome.stderr
    file.write_bytes(content)
    outcome = start_ranks(version, 2)
    assert outcome.returncode == 0, outcome.stderr
    assert (
        "step_000006: written before hashes were recorded, so damage to it would not be seen"
        in outcome.stdout
    )


def test_a_checkpoint_of_another_step_or_version_is_refused(tmp_path):
    version = half_trained(tmp_path, {}, "fp32")
    checkpoints = version / "checkpoints"
    cut_before(version, 12)
    (checkpoints / "step_000006").rename(checkpoints / "step_000009")
    outcome = start_ranks(version, 1)
    assert f"error: {checkpoints / 'step_000009'}: holds step 6; delete" in outcome.stderr
    (checkpoints / "step_000009").rename(checkpoints / "step_000006")
    inputs = read_json(version / "inputs.json")
    write_json(version / "inputs.json", inputs | {"identity": inputs["identity"] | {"seed": 5}})
    outcome = start_ranks(version, 1)
    assert f"error: {checkpoints / 'step_000006'}: a checkpoint of another version; delete" in outcome.stderr
