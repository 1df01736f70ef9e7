"""When a training job is tried again."""

import pytest

from perdure.launch.attempt import attempts, begin, end, newest_step, refusal
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.train import fence


def checkpoint(version, step: int) -> None:
    path = version / "checkpoints" / f"step_{step:06d}"
    path.mkdir(parents=True)
    finish(path, {})


@pytest.fixture
def version(tmp_path):
    (tmp_path / "launch").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([0], None),
        ([0, 0, 0], None),
        ([0, 0, 0, 0], "3 attempts in a row left no checkpoint after step 0"),
        ([0, 10, 10, 10], None),
        ([0, 10, 10, 10, 10], "3 attempts in a row left no checkpoint after step 10"),
        ([0, 10, 20, 30, 40, 50], None),
        ([0, 10, 20, 30, 40, 50, 60], "6 attempts were made, 5 restarts are allowed"),
    ],
)
def test_given_up_after_too_many_attempts_or_without_progress(steps, reason):
    found = refusal(steps, max_restarts=5, patience=3)
    assert (found is None) if reason is None else found.startswith(reason)


def test_attempts_are_counted_at_their_beginning(version, monkeypatch, said):
    monkeypatch.setenv("PERDURE_ATTEMPT", "17.0")
    assert begin(version, max_restarts=5, patience=2) == 0
    assert [(entry["attempt"], entry["step"]) for entry in attempts(version)] == [("17.0", 0)]
    checkpoint(version, 40)
    assert begin(version, max_restarts=5, patience=2) == 0
    assert begin(version, max_restarts=5, patience=2) == 0
    assert "attempt 3, from step 40" in said[-1]
    assert begin(version, max_restarts=5, patience=2) == 1
    assert "given up: 2 attempts in a row left no checkpoint after step 40" in said[-1]
    assert len(attempts(version)) == 3


def test_half_a_checkpoint_is_no_progress(version):
    checkpoint(version, 10)
    (version / "checkpoints" / "step_000020").mkdir()
    (version / "checkpoints" / ".step_000030").mkdir()
    assert newest_step(version) == 10


def test_ends_well_only_when_the_version_is_whole(version):
    assert end(version) == 1
    finish(version, {})
    assert end(version) == 0


def test_a_start_that_was_fenced_off_does_not_go_back_into_the_queue(version, monkeypatch, said):
    def attempt(name):
        monkeypatch.setenv("PERDURE_ATTEMPT", name)
        assert begin(version, max_restarts=5, patience=3) == 0

    attempt("7.0")
    assert end(version) == 1  # died before it took a number
    attempt("7.1")
    fence.take(version)
    assert end(version) == 1
    attempt("9.0")
    assert end(version) == 1  # the number is an earlier start's
    monkeypatch.setenv("PERDURE_ATTEMPT", "9.0")
    fence.take(version)
    assert end(version) == 1
    monkeypatch.setenv("PERDURE_ATTEMPT", "7.1")
    assert end(version) == 3
    assert "another start trains this version now (9.0); this one ends" in said[-1]
    monkeypatch.delenv("PERDURE_ATTEMPT")
    fence.take(version)
    monkeypatch.setenv("PERDURE_ATTEMPT", "9.0")
    assert end(version) == 3
    assert "(by hand)" in said[-1]
    finish(version, {})
    assert end(version) == 0
