"""What becomes of checkpoints once they are written: which are kept, and in what order they reach the disk."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from perdure.pipeline.core.files import write_atomic, write_json
from perdure.pipeline.train import checkpoint
from perdure.pipeline.train.checkpoint import Checkpoints
from perdure.pipeline.train.saved import finished_checkpoints, last_scheduled, set_old_aside
from perdure.pipeline.train.state import TrainState


def written(directory: Path, step: int, scheduled: bool) -> Path:
    """A whole checkpoint, as far as its state goes."""
    path = directory / f"step_{step:06d}"
    write_json(path / "state.json", {"step": step, "scheduled": scheduled})
    write_atomic(path / "_SUCCESS", "")
    return path


def steps(directory: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in finished_checkpoints(directory)]


def test_a_guard_can_roll_back_after_two_saves_by_signal(tmp_path):
    """The newest checkpoint of the interval is kept for it, however many came after, and no other is."""
    directory, kept = tmp_path / "checkpoints", []
    for step, scheduled in ((5, True), (10, True), (11, False), (12, False), (13, False), (15, True)):
        written(directory, step, scheduled)
        set_old_aside(directory, ())
        kept.append(steps(directory))
        assert last_scheduled(directory).name == f"step_{max(s for s in (5, 10, 15) if s <= step):06d}"
    assert kept == [[5], [5, 10], [10, 11], [10, 11, 12], [10, 12, 13], [13, 15]]


def test_checkpoints_that_are_named_are_kept_beside_those(tmp_path):
    directory = tmp_path / "checkpoints"
    for step in (5, 10, 15, 20):
        written(directory, step, True)
        set_old_aside(directory, {"step_000005"})
    assert steps(directory) == [5, 15, 20]


@pytest.fixture
def told(monkeypatch):
    """What is flushed to the disk and what is renamed, by path, in order; a flushed file with its size."""
    found: list[tuple] = []
    flush, rename, replace = os.fsync, os.rename, os.replace

    def flushed(file):
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        found.append(("flush", path, path.stat().st_size if path.is_file() else None))
        flush(file)

    def moved(move, before, after, **options):
        found.append(("rename", Path(before), Path(after)))
        return move(before, after, **options)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", lambda *args, **options: moved(rename, *args, **options))
    monkeypatch.setattr(os, "replace", lambda *args, **options: moved(replace, *args, **options))
    return found


def test_a_file_is_on_disk_with_all_it_holds_before_it_has_its_name(tmp_path, told):
    write_atomic(tmp_path / "file", "x" * 10_000)
    (flushed, temporary, size), (renamed, before, after) = told
    assert (flushed, size, renamed) == ("flush", 10_000, "rename")
    assert before == temporary and after == tmp_path / "file"


def test_a_checkpoint_is_on_disk_before_it_has_its_name_and_its_name_after(tmp_path, told, monkeypatch):
    beside, final = tmp_path / "checkpoints" / ".step_000005.1", tmp_path / "checkpoints" / "step_000005"
    beside.mkdir(parents=True)
    (beside / "__0_0.distcp").write_bytes(bytes(1000))
    monkeypatch.setattr(checkpoint.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(checkpoint.collectives, "from_all", lambda value: [value])
    monkeypatch.setattr(checkpoint.collectives, "barrier", lambda: None)
    monkeypatch.setattr(checkpoint.writers, "written", dict)
    monkeypatch.setattr(checkpoint.fence, "held", lambda *_: nullcontext())
    monkeypatch.setattr(checkpoint, "write_hashes", lambda *_: None)
    writer = object.__new__(Checkpoints)
    writer.version_directory, writer.directory, writer.attempt, writer.kept = (
        tmp_path,
        beside.parent,
        1,
        set(),
    )
    writer.commit(beside, final, TrainState(step=5, scheduled=True))
    place = told.index(("rename", beside, final))
    before = {path for kind, path, _ in told[:place] if kind == "flush"}
    assert before >= {beside, *(beside / path.name for path in final.iterdir())}
    assert {path.name for path in final.iterdir()} == {"__0_0.distcp", "state.json", "_SUCCESS"}
    assert ("flush", final.parent, None) in told[place:]
