"""Fencing: numbers rise, and only the newest may commit."""

import threading

import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.locks import lock
from perdure.pipeline.train import fence


def test_only_the_newest_start_commits(tmp_path):
    assert fence.take(tmp_path) == 1
    with fence.held(tmp_path, 1):
        pass
    assert fence.take(tmp_path) == 2
    taken = pytest.raises(PerdureError, match="start 2 of this version has taken over from start 1")
    with taken, fence.held(tmp_path, 1):
        pytest.fail("a stale start committed")
    with fence.held(tmp_path, 2):
        pass


def test_a_newer_start_waits_for_a_commit_and_says_so(tmp_path, monkeypatch, said):
    monkeypatch.setattr(fence, "PATIENCE_SECONDS", 0.0)
    looks, looked_often = [], threading.Event()

    def look(*arguments):
        looks.append(lock(*arguments))
        if len(looks) == 5:  # the first was our own; it has told, and looked again
            looked_often.set()
        return looks[-1]

    fence.take(tmp_path)
    order = []
    monkeypatch.setattr(fence, "lock", look)
    with fence.held(tmp_path, 1):
        newer = threading.Thread(target=lambda: order.append(fence.take(tmp_path)))
        newer.start()
        assert looked_often.wait(60)
        order.append("committed")
    newer.join()
    assert looks[:5] == [True, False, False, False, False]
    assert order == ["committed", 2]
    assert len([line for line in said if "another start of this version holds it" in line]) == 1
