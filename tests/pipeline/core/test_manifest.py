"""Hashes, atomic writes, and errors of the disk in one line."""

import errno
import json
import os

import numpy as np
import pytest

from perdure.pipeline.core import remembered_hashes
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import finite, move_whole, read_json, write_atomic, write_json
from perdure.pipeline.core.hashes import hash_directory, hash_file, hash_of
from perdure.pipeline.core.manifest import differences, disk_errors, finish, is_finished, refuse_link
from perdure.pipeline.core.remembered_hashes import remembered_hash


def test_hash_of_ignores_the_order_of_keys_and_nothing_else():
    assert hash_of({"a": 1, "b": [1, 2]}) == hash_of({"b": [1, 2], "a": 1})
    assert hash_of({"a": 1}) != hash_of({"a": 2})
    assert hash_of([1, 2]) != hash_of([2, 1])
    assert (
        hash_of({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )  # SHA-256 of "{}"


def test_hash_file_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert hash_file(tmp_path / "file").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_hash_directory_covers_names_and_contents(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("1")
    first = hash_directory(tmp_path)
    (tmp_path / "sub" / "a").write_text("2")
    assert (second := hash_directory(tmp_path)) != first
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "b")
    assert hash_directory(tmp_path) not in (first, second)


def test_write_atomic_replaces_whole_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_what_is_written_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", "one")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_no_work_is_done_behind_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work").symlink_to("elsewhere")
    refuse_link(tmp_path / "elsewhere")
    with pytest.raises(PerdureError, match="work: a symbolic link"):
        refuse_link(tmp_path / "work")


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip_keeps_order_and_reads_well(tmp_path):
    write_json(tmp_path / "x.json", {"z": 1, "a": "ü"})
    text = (tmp_path / "x.json").read_text()
    assert text.startswith('{\n "z": 1,\n "a": "ü",\n "checksum": "perdure-sha256:') and text.endswith(
        '"\n}\n'
    )
    assert list(read_json(tmp_path / "x.json")) == ["z", "a"]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "missing"), (b"{", "not readable"), (b"\xff", "not readable")]
)
def test_unreadable_json_is_one_line_with_its_path(tmp_path, content, said):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PerdureError, match=said) as refused:
        read_json(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_finish_writes_the_manifest_and_then_success(tmp_path):
    assert not is_finished(tmp_path)
    finish(tmp_path, {"counts": 3})
    assert is_finished(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["counts"] == 3
    assert manifest["versions"].keys() >= {"perdure", "numpy", "torch"}
    assert (tmp_path / "_SUCCESS").stat().st_mtime_ns >= (tmp_path / "manifest.json").stat().st_mtime_ns


def test_differences_name_nested_paths():
    expected = {"same": 1, "a": {"b": 1, "gone": 2}, "kind": {"x": 1}}
    found = {"same": 1, "a": {"b": 2, "new": 3}, "kind": 5}
    assert differences(expected, found) == [
        "a.b: 1 -> 2",
        "a.gone: 2 -> None",
        "a.new: None -> 3",
        "kind: {'x': 1} -> 5",
    ]


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission"), (errno.EROFS, "no permission")],
)
def test_disk_errors_become_one_line_that_names_the_file(tmp_path, number, said):
    with pytest.raises(PerdureError, match=said) as refused, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "shard.bin"))
    assert str(tmp_path / "shard.bin") in str(refused.value)


def test_a_disk_that_is_really_full():
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with full, pytest.raises(PerdureError, match="out: the disk is full"), disk_errors("out"):
        full.write(b"x")


def test_other_errors_pass():
    with pytest.raises(FileNotFoundError), disk_errors("out"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")


def test_a_hash_is_made_again_once_a_file_may_have_changed(tmp_path, monkeypatch):
    file, store, made = tmp_path / "weights", tmp_path / "run" / "hashes.json", []

    def ask(what="weights"):
        found = remembered_hash(store, what, [file], lambda: made.append(what) or hash_file(file))
        assert found == hash_file(file)
        return len(made)

    file.write_bytes(b"old")
    assert (ask(), ask()) == (1, 2)  # it has only just changed
    monkeypatch.setattr(remembered_hashes, "TICK_SECONDS", -1)
    assert (ask(), ask()) == (3, 3)
    assert (ask("another"), ask("another"), ask()) == (4, 4, 4)

    before = file.stat()
    file.write_bytes(b"new")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # under its old name, size and date
    assert (ask(), ask()) == (5, 5)
    (tmp_path / "swapped").write_bytes(b"got")
    os.utime(tmp_path / "swapped", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "swapped").rename(file)
    assert (ask(), ask()) == (6, 6)


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(remembered_hashes, "TICK_SECONDS", -1)
    file, store = tmp_path / "weights", tmp_path / "hashes.json"
    file.write_bytes(b"old")

    def hash_and_change():
        found = hash_file(file)
        file.write_bytes(b"newer")
        return found

    remembered_hash(store, "weights", [file], hash_and_change)
    assert remembered_hash(store, "weights", [file], lambda: hash_file(file)) == hash_file(file)


def test_numbers_for_json_are_plain_and_finite():
    value = {
        "rows": np.array([[1.5, np.nan], [np.inf, 2.0]]),
        "one": (np.float32(0.5), np.float64("nan"), np.int64(3), np.bool_(True)),
        "plain": ["text", None, 1, -float("inf")],
    }
    found = finite(value)
    assert found == {
        "rows": [[1.5, None], [None, 2.0]],
        "one": [0.5, None, 3, True],
        "plain": ["text", None, 1, None],
    }
    assert json.loads(json.dumps(found)) == found


def test_a_directory_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    """Content first, the names in it next, then the rename, and its own name last."""
    source, target, calls = tmp_path / "building", tmp_path / "whole", []
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("content")
    flush, replace = os.fsync, os.replace

    def flushed(descriptor):
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        flush(descriptor)

    def renamed(old, new):
        calls.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    move_whole(source, target)
    assert (target / "sub" / "file").read_text() == "content" and not source.exists()
    at = calls.index("rename")
    assert {str(source), str(source / "sub"), str(source / "sub" / "file")} == set(calls[:at])
    assert calls[at + 1 :] == [str(tmp_path)]
