import errno
import fcntl
import os

import pytest

from perdure.launch.preflight import write_failure
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.locks import lock, open_lock


def test_a_lock_has_one_holder(tmp_path):
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        assert lock(one.fileno(), tmp_path) and not lock(other.fileno(), tmp_path)
        one.close()
        assert lock(other.fileno(), tmp_path)


def test_a_lock_is_a_file_of_our_own(tmp_path):
    (tmp_path / "precious").write_text("do not touch")
    (tmp_path / "link").symlink_to("precious")
    (tmp_path / "dangling").symlink_to("made by whoever opens it")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "directory", "pipe"):
        with pytest.raises(PerdureError, match=f"{name}: .*remove it") as error:
            open_lock(tmp_path / name)
        assert "\n" not in str(error.value)
    assert (tmp_path / "precious").read_text() == "do not touch"
    assert not (tmp_path / "made by whoever opens it").exists()
    for _ in range(2):  # made, then found
        os.close(open_lock(tmp_path / "lock"))


def test_a_file_system_without_locks_is_one_line_and_found_before_training(tmp_path, monkeypatch):
    def missing(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    with (
        (tmp_path / "lock").open("w") as file,
        pytest.raises(PerdureError, match="Lustre: -o flock") as error,
    ):
        lock(file.fileno(), tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "lock").unlink()
    assert write_failure(tmp_path) == str(error.value) and not any(tmp_path.iterdir())


def test_another_error_stays_what_it_is(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with (tmp_path / "lock").open("w") as file, pytest.raises(OSError, match="Input/output"):
        lock(file.fileno(), tmp_path)
