"""Files that changed since an artefact was finished, and JSON that changed since it was written."""

import json
import os
import shutil
import subprocess
import time
from unittest.mock import patch

import pytest

from perdure.pipeline.cli.entry import main
from perdure.pipeline.core import hashes, remembered_hashes
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.integrity import damaged_files, metrics_lines, require_whole
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.remedies import remedy
from perdure.pipeline.core.remembered_hashes import hash_files


@pytest.fixture
def artefact(tmp_path, monkeypatch):
    """A finished artefact whose files are old enough to be remembered."""
    monkeypatch.setattr(remembered_hashes, "TICK_SECONDS", -1)
    directory = tmp_path / "out" / "data" / "web@0123abcd"
    directory.mkdir(parents=True)
    for number in range(3):
        (directory / f"{number}.bin").write_bytes(bytes([number]) * 100)
    finish(directory, {"source": "web"})
    return directory


def hashed(directory) -> list[str]:
    """Names of the files that are read to find an artefact whole."""
    read = []

    def hash_file(path):
        read.append(path.name)
        return hashes.hash_file(path)

    with patch("perdure.pipeline.core.integrity.hash_file", hash_file):
        require_whole(directory)
    return sorted(read)


def test_what_was_just_written_is_hashed_once_however_often_it_is_opened(tmp_path, monkeypatch):
    """Files are remembered once the file system's clock has moved on, and finishing large ones waits for that."""
    monkeypatch.setattr(remembered_hashes, "TICK_SECONDS", 0.3)
    small, large = tmp_path / "small", tmp_path / "large"
    for directory, wait_from in ((small, 1 << 40), (large, 1)):
        monkeypatch.setattr(remembered_hashes, "WAIT_BYTES", wait_from)
        directory.mkdir()
        (directory / "0.bin").write_bytes(b"order")
        finish(directory, {})
    assert hashed(large) == []
    time.sleep(0.4)
    assert [hashed(small), hashed(small)] == [["0.bin"], []]


def test_nothing_is_read_again_until_a_file_is_touched(artefact):
    assert hashed(artefact) == []  # finishing it read them
    os.utime(artefact / "1.bin")
    assert hashed(artefact) == ["1.bin"]
    assert hashed(artefact) == []
    moved = artefact.with_name("web@0123abce")
    artefact.rename(moved)
    assert hashed(moved) == []
    copy = moved.with_name("web@0123abcf")
    shutil.copytree(moved, copy)
    assert hashed(copy) == ["0.bin", "1.bin", "2.bin"]
    (copy / ".verified.json").write_text("{")  # a record that is broken is made anew
    assert hashed(copy) == ["0.bin", "1.bin", "2.bin"]
    assert hashed(copy) == []


def flip(path):
    before = path.stat()
    path.write_bytes(b"\x01" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


def directory(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "damaged: SHA-256"),
        (lambda path: os.truncate(path, 7), "truncated: 7 of 100 bytes"),
        (lambda path: path.write_bytes(b"0" * 101), "longer: 101 of 100 bytes"),
        (lambda path: path.write_bytes(b""), "truncated: 0 of 100 bytes"),
        (lambda path: path.unlink(), "missing"),
        (directory, "a directory stands in its place"),
        (loop, "cannot be read (Too many levels of symbolic links)"),
        (lambda path: shutil.copy(path.with_name("2.bin"), path), "damaged: SHA-256"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_delete(artefact, damage, said):
    damage(artefact / "0.bin")
    with pytest.raises(PerdureError) as error:
        require_whole(artefact)
    assert str(error.value).startswith(f"{artefact / '0.bin'}: {said}")
    assert str(error.value).endswith(f"; delete {artefact} and run again")
    require_whole(artefact, ["1.bin", "2.bin"])  # what is not read is not asked for


def test_an_artefact_without_hashes_is_read_as_before(tmp_path):
    (tmp_path / "0.bin").write_bytes(b"x")
    write_json(tmp_path / "manifest.json", {"source": "web"})
    require_whole(tmp_path)


def test_hashes_do_not_depend_on_being_remembered(artefact):
    names = ["0.bin", "1.bin", "2.bin"]
    assert hash_files(artefact) == hash_files(artefact, names, remember=False)
    assert list(hash_files(artefact)) == names
    assert not damaged_files(artefact, hash_files(artefact), store=None)


def test_any_flipped_bit_of_a_json_file_is_found(tmp_path):
    path, value = tmp_path / "x.json", {"steps": 16, "loss": 1.25, "names": ["a", {"b": None}]}
    write_json(path, value)
    content, harmless = path.read_bytes(), 0
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = read_json(path)
        except PerdureError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            harmless += 1
            # White space, or a checksum that is none any more: then a key is there that was not.
            assert found == value or {key: found.get(key) for key in value} == value
    assert harmless < len(content)


def test_json_of_another_name_type_or_without_a_key_is_refused(tmp_path):
    path = tmp_path / "versions" / "v1" / "eval.json"
    write_json(path, {"step": 3, "domains": {"a": 1}})
    assert read_json(path) == {"step": 3, "domains": {"a": 1}}
    shutil.copy(path, path.with_name("version.json"))
    with pytest.raises(PerdureError, match=r"version.json: damaged: it no longer fits its own checksum"):
        read_json(path.with_name("version.json"))
    for content, said in (([], "should hold a JSON object"), ({"step": 3}, "has no 'domains'; delete")):
        path.write_text(json.dumps(content))
        with pytest.raises(PerdureError, match=said):
            read_json(path)["domains"]
    path.write_text('{"step": 3, "domains": {}}')  # as an older version wrote it, or a hand
    with pytest.raises(PerdureError, match=r"eval.json: has no 'a'"):
        read_json(path)["domains"]["a"]


def test_json_for_other_programs_has_no_checksum(tmp_path):
    write_json(tmp_path / "config.json", {"a": 1}, checksum=False)
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1}
    (tmp_path / "config.json").write_text('{"checksum": "theirs"}')
    assert read_json(tmp_path / "config.json") == {"checksum": "theirs"}


@pytest.mark.parametrize("content", [b'{"step": 1}\n{"st\n', b"\xff\n", b"[1]\n", b'{"loss": 1}\n'])
def test_damaged_metrics_are_one_line(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(PerdureError, match=r"metrics.jsonl: "):
        metrics_lines(path)
    path.write_bytes(b'{"step": 1}\n{"st')
    assert metrics_lines(path) == [{"step": 1}]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data/a@01234567/00000.bin", "delete O/data/a@01234567 and run again"),
        ("data/a@01234567/scores/m@01234567/docs.parquet", "delete O/data/a@01234567/scores/m@01234567 and"),
        ("tokenizer@01234567/tokenizer.json", "delete O/tokenizer@01234567 and run again"),
        ("versions/v/plan/a.ends.npy", "delete O/versions/v/plan and O/versions/v/_SUCCESS and run again: "),
        ("versions/v@01234567/plan/plan.json", "delete O/versions/v@01234567/plan and run again"),
        ("versions/v/eval@01234567/eval.json", "delete O/versions/v/eval@01234567 and run again"),
        (
            "versions/v/checkpoints/step_000004/.metadata",
            "delete O/versions/v/checkpoints/step_000004 to go on",
        ),
        ("versions/v/hf/config.json", "delete O/versions/v/hf/config.json and O/versions/v/_SUCCESS and"),
        ("versions/v/eval_initial.json", "copy it again, or delete O/versions/v to train it anew"),
        ("data.json", "delete O/data.json and run again"),
    ],
)
def test_the_remedy_deletes_the_innermost_artefact(tmp_path, path, said):
    if path.startswith("versions/v/"):
        (tmp_path / "versions/v").mkdir(parents=True)
        (tmp_path / "versions/v/_SUCCESS").touch()
    assert remedy(tmp_path / path).replace(str(tmp_path), "O").startswith(said)


def test_verify_lists_artefacts_and_fails_on_damage(artefact, capsys):
    out = artefact.parents[1]
    write_json(out / "data.json", {"of": 1})
    assert main(["verify", str(out)]) == 0
    said = capsys.readouterr().out
    assert "as made  data/web@0123abcd: 3 files, 300 B" in said and "1 artefacts" in said
    flip(artefact / "2.bin")
    (out / "data.json").write_text((out / "data.json").read_text().replace("1", "2", 1))
    assert main(["verify", str(out)]) == 1
    errors = capsys.readouterr().err
    assert f"damaged  {artefact / '2.bin'}: damaged: SHA-256" in errors
    assert f"damaged  {out / 'data.json'}: damaged: it no longer fits" in errors
    assert errors.splitlines()[2:] == [f"error: {out}: 2 of 2 artefacts are damaged, as said above"]
    assert main(["verify", str(artefact)]) == 1
    (artefact / "manifest.json").unlink()
    assert main(["verify", str(artefact)]) == 1
    (out / "empty").mkdir()
    assert main(["verify", str(out / "empty")]) == 1


def test_the_remedy_for_a_directory_in_place_of_metrics_works(tmp_path):
    """What is printed is a command for a shell: an `echo` into a directory would fail."""
    path = tmp_path / "versions" / "v1" / "metrics.jsonl"
    path.mkdir(parents=True)
    (path / "left").touch()
    with pytest.raises(PerdureError) as raised:
        metrics_lines(path)
    command = str(raised.value).split("`")[1]
    assert command.startswith(f"rm -r {path}")
    subprocess.run(command, shell=True, check=True)
    assert metrics_lines(path) == []
