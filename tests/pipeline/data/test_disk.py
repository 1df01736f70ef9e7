"""What the data stage does about killed runs' leftovers, outputs that cannot be written, and full disks."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hashes import hash_directory
from perdure.pipeline.data import stage
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.run.run import make_data
from tests.pipeline.data.made import trained_on


def test_what_killed_runs_left_of_finished_work_is_swept_and_unfinished_work_kept(
    make_recipe, texts, tmp_path, said
):
    recipe, work = make_recipe({"news": texts}), tmp_path / "out" / "work"
    found = run_data(recipe)
    # Killed right after the artefact had its name, before and while the work was removed, and in another recipe's work.
    for path in (
        "clean.news@0/steps/stats",
        f"data.{found['news'].name}/shard/completions",
        "clean.b@1/artefact",
    ):
        (work / path).mkdir(parents=True)
    (work / "clean.b@1" / "artefact" / "00000.jsonl.zst").write_bytes(b"x" * 2_500_000)
    for name in ("data.a@1.scores.ref@2", "data.a@1.leaks.3"):  # which a later stage may go on with
        (work / name / "artefact").mkdir(parents=True)
    assert run_data(recipe) == found
    assert not any("left by" in line for line in said)  # by a run of a sweep, it may be another run's
    assert sorted(path.name for path in work.iterdir()) == [
        "clean.b@1",
        "data.a@1.leaks.3",
        "data.a@1.scores.ref@2",
    ]
    make_data(recipe)
    assert said[-1] == (
        f"{work}: left by runs under other recipes that did not end: clean.b@1 (2.5 MB); remove what nobody goes on with"
    )


def test_half_made_artefacts_are_counted_while_someone_removes_them(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "clean.b@1" / name).mkdir(parents=True)
        (tmp_path / "clean.b@1" / name / "x").write_bytes(b"x" * 10_000_000)
    lstat = os.lstat

    def removing(path, *arguments):
        (tmp_path / "clean.b@1" / "a" / "x").unlink(missing_ok=True)
        return lstat(path, *arguments)

    monkeypatch.setattr(os, "lstat", removing)
    assert "that did not end: clean.b@1 (10 MB); remove" in stage.left_over(tmp_path)


def test_an_output_that_cannot_be_written(make_recipe, texts, small_disk):
    recipe = make_recipe({"news": texts}, out=small_disk("ro") / "out")
    with pytest.raises(PerdureError, match="out: no permission to write; choose another place with --out"):
        run_data(recipe)


def test_an_output_below_a_file(make_recipe, texts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        PerdureError, match="file/out: a file stands in the way; choose another place with --out"
    ):
        run_data(make_recipe({"news": texts}, out=tmp_path / "file" / "out"))


@pytest.mark.slow
def test_a_full_disk_keeps_what_is_finished(make_recipe, texts, small_disk, tmp_path):
    noise = [np.random.default_rng(number).bytes(4000).hex(" ", 4) for number in range(150)]
    out = small_disk("rw") / "out"
    recipe = make_recipe({"news": texts, "big": noise}, out=out, tokenizer=trained_on("news"))
    with pytest.raises(
        PerdureError, match="the disk is full; free some space and run the same command again"
    ):
        run_data(recipe)
    assert (next(out.glob("clean/news@*")) / "_SUCCESS").exists()
    subprocess.run(["mount", "-o", "remount,size=200m", str(out.parent)], check=True)
    run_data(recipe)
    run_data(recipe.model_copy(update={"out": tmp_path / "roomy"}))
    assert hash_directory(out / "data", hidden=False) == hash_directory(
        tmp_path / "roomy" / "data", hidden=False
    )


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of 1 MB, `ro` or `rw`."""
    mounted = []

    def mount(mode: str) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"{mode},size=1m", "tmpfs", str(path)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("NOT TESTED: mounting a small disk takes root and the right to mount")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)
