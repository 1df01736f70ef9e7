"""Checkpoints in real processes: other layouts, kills while writing, helpers, stale starts, code in pickles."""

import fcntl
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest
import torch
import yaml
from support import metrics, on_rank, prepare_version, read_json, start_ranks, tiny_recipe
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.train.pickles import refuse_code

pytestmark = pytest.mark.slow


def command(directory, ranks=1):
    code = f"from pathlib import Path; from perdure.pipeline.train import ranks; ranks.start(Path({str(directory)!r}), {ranks})"
    return [sys.executable, "-c", code]


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
    on_rank("copy_checkpoint", cut, copy, ranks=4)
    expected, found = on_rank("checkpoint_tensors", cut), on_rank("checkpoint_tensors", copy)
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
    on_rank("copy_checkpoint", version, other, ranks=LAYOUTS[after].get("data_parallel", 1))
    expected, found = on_rank("checkpoint_tensors", version), on_rank("checkpoint_tensors", other)
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
    on_rank("copy_checkpoint", version, other, ranks=6)
    assert on_rank("checkpoint_tensors", other) == on_rank("checkpoint_tensors", version)


def test_a_replica_saves_the_share_that_it_holds(tmp_path):
    layout = {"data_parallel": 2, "distributed_optimizer": True}
    version = prepare_version(tiny_recipe(tmp_path, parallel=layout, training__precision="bf16"))
    shares = on_rank("saved_shares", version, ranks=2)
    assert all(saved == own and in_place for saved, own, in_place in shares)
    parameters = 4 * (32 * (2 * 32 + 2 * 16 + 3 * 64) + 2 * 32) + 384 * 32 + 32
    assert sum(saved for saved, _, _ in shares) == 12 * parameters
    assert max(saved for saved, _, _ in shares) <= 12 * (parameters // 2 + 64)  # but for padding


def test_a_killed_ranks_helpers_die_with_it(tmp_path):
    version = prepare_version(tiny_recipe(tmp_path, versions__v1__tokens=32 * 8 * 200))
    mark = uuid.uuid4().hex

    def marked():
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PERDURE_TEST_MARK") == mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    starter = subprocess.Popen(
        command(version),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PERDURE_TEST_MARK": mark},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    while not (version / "checkpoints" / "step_000010").exists():
        assert starter.poll() is None
        time.sleep(0.02)
    (rank,) = [
        process for process in psutil.Process(starter.pid).children() if "worker" in str(process.cmdline())
    ]
    assert len(marked()) > 2  # a manager, beside the starter and the rank
    rank.send_signal(signal.SIGKILL)
    _, errors = starter.communicate(timeout=120)  # ends only when nobody holds the pipe
    assert b"exit status -9); killed, most likely because memory ran out" in errors
    deadline = time.monotonic() + 30
    while found := marked():
        assert time.monotonic() < deadline, [process.cmdline() for process in found]
        time.sleep(0.05)


def test_a_killed_writer_is_noticed_by_all_ranks(tmp_path):
    parallel = {"tensor_parallel": 2}
    version = prepare_version(tiny_recipe(tmp_path, parallel=parallel))
    first, second = on_rank("killed_writer", version, ranks=2)
    assert "a process that was saving (of rank 1) was killed, most likely because memory ran out" in first
    assert second.endswith("nothing was saved; rank 0 says why")
    assert [path.name for path in (version / "checkpoints").iterdir()] == [".step_000001.1"]


def test_all_ranks_go_on_from_what_rank_0_sees(tmp_path):
    """A machine's view of a shared file system may be a minute old."""
    version = half_trained(tmp_path, LAYOUTS["dp2_distributed"], "bf16")
    recipe = yaml.safe_load((version / "recipe.yaml").read_text())
    recipe["training"]["guard"]["on_nan"] = "rollback"
    (version / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert on_rank("begun_and_rolled_back", version, ranks=2) == [[12, 12], [12, 12]]


def test_views_that_do_not_become_equal_end_the_run(tmp_path):
    differs, unseen = on_rank("differing_views", tmp_path, ranks=2)
    assert "state.json: rank 0 on" in differs and "reads step 5, rank 1 on" in differs
    assert unseen.startswith(str(tmp_path / "never"))
    assert "still does not after 0.1 s; is `out` on a file system that all machines share?" in unseen


def test_a_dead_rank_ends_those_that_wait_for_its_files(tmp_path):
    heard = on_rank("dead_rank", tmp_path, ranks=2)
    assert heard != "nothing" and "Timed out" not in heard  # a connection that is closed or reset


def test_no_collective_with_a_time_limit_waits_for_a_slow_writer(tmp_path):
    version = prepare_version(tiny_recipe(tmp_path, parallel={"tensor_parallel": 2}))
    assert on_rank("slow_writer", version, ranks=2) == ["step_000001", "step_000002"]


@pytest.mark.parametrize(("hanging", "said"), [(2, "step_000001"), (5, "5 processes that should save")])
def test_a_writer_that_hangs_as_it_is_forked_is_replaced(tmp_path, hanging, said):
    version = prepare_version(tiny_recipe(tmp_path))
    (found,) = on_rank("hanging_writers", version, hanging)
    assert said in found


def test_killed_twenty_times_while_saving_the_newest_whole_checkpoint_is_right(tmp_path):
    """Every rank checks that each number in what it loads is the step that the state and the name say."""
    version = prepare_version(tiny_recipe(tmp_path))
    found = on_rank("killed_while_saving", version, 20, script="saves.py")
    assert found["steps"] == sorted(found["steps"])
    assert found["steps"][-1] > 10
    assert found["partial"] >= 10, found  # kills fell into saves


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A version that has a checkpoint of step 5 and is not finished."""
    version = prepare_version(tiny_recipe(tmp_path_factory.mktemp("cut"), versions__v1__tokens=32 * 8 * 5))
    outcome = start_ranks(version, 1)
    assert outcome.returncode == 0, outcome.stderr
    for file in ("_SUCCESS", "version.json"):
        (version / file).unlink()
    return version


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


def plant(checkpoint, file, mark):
    """Puts a pickle that runs a command where Megatron or torch would read it."""
    if file == "common.pt":
        torch.save({"state": Planted(mark)}, checkpoint / file)
        return
    with (checkpoint / ".metadata").open("rb") as stream:
        metadata = pickle.load(stream)
    if file == ".metadata":
        metadata.planner_data = Planted(mark)
    else:  # a weight that claims to be an object
        index = next(
            index for index in metadata.storage_data if index.fqn == "decoder.final_layernorm.weight"
        )
        place = metadata.storage_data[index]
        torch.save(Planted(mark), checkpoint / "__9_9.distcp")
        place.relative_path, place.offset = "__9_9.distcp", 0
        place.length = (checkpoint / "__9_9.distcp").stat().st_size
        metadata.state_dict_metadata[index.fqn] = BytesStorageMetadata()
    with (checkpoint / ".metadata").open("wb") as stream:
        pickle.dump(metadata, stream)


@pytest.mark.parametrize("file", [".metadata", "common.pt", "object"])
def test_code_in_a_checkpoint_is_not_run(cut, tmp_path, file):
    checkpoint, mark = tmp_path / "step_000005", tmp_path / "mark"
    shutil.copytree(cut / "checkpoints" / "step_000005", checkpoint)
    refuse_code(checkpoint)
    plant(checkpoint, file, mark)
    with pytest.raises(PerdureError, match="holds something other than data"):
        refuse_code(checkpoint)
    assert not mark.exists()
    if file == ".metadata":  # that it would have run
        with (checkpoint / ".metadata").open("rb") as stream:
            pickle.load(stream)
        assert mark.exists()


def test_a_planted_or_half_written_checkpoint_is_one_line(cut, tmp_path):
    version, mark = tmp_path / "version", tmp_path / "mark"
    shutil.copytree(cut, version)
    plant(version / "checkpoints" / "step_000005", ".metadata", mark)
    (version / "checkpoints" / "step_000005" / "hashes.json").unlink()  # whoever plants code can do that, too
    (version / "checkpoints" / ".step_000010.7").mkdir()
    outcome = start_ranks(version, 1)
    assert outcome.returncode != 0 and not mark.exists()
    assert ".step_000010.7: half-written, so it is removed" in outcome.stdout
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("error:")]
    assert "step_000005/.metadata: holds something other than data (posix.system)" in line
    assert not (version / "checkpoints" / ".step_000010.7").exists()


def suspended_between_commits(rank, version):
    """Suspends a rank, unless it holds the fence, for which its successor would wait."""
    rank.suspend()
    with (version / "fence").open("r+") as fence:
        try:
            fcntl.flock(fence, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            rank.resume()
            return False


def test_a_start_that_wakes_up_late_cannot_commit(tmp_path):
    version = prepare_version(tiny_recipe(tmp_path, versions__v1__tokens=32 * 8 * 60))
    with subprocess.Popen(
        command(version), env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    ) as stale:
        while not (version / "checkpoints" / "step_000010").exists():
            assert stale.poll() is None
            time.sleep(0.005)
        (rank,) = [
            child for child in psutil.Process(stale.pid).children() if "worker" in str(child.cmdline())
        ]
        while not suspended_between_commits(rank, version):
            time.sleep(0.01)
        outcome = start_ranks(version, 1)
        assert outcome.returncode == 0, outcome.stderr
        before = {path: path.stat().st_mtime_ns for path in version.rglob("*") if path.is_file()}
        rank.resume()
        errors = stale.communicate(timeout=300)[1]
    assert stale.returncode != 0 and "start 2 of this version has taken over from start 1" in errors
    after = {path: path.stat().st_mtime_ns for path in version.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {
        path for path in after if path.parent.name == "tb" or ".step_" in str(path)
    }


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
