"""A thread that reads ahead: in order, not too far, errors at their place, and gone when it is closed."""

import threading
import time
from itertools import count

import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.train.ahead import read_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def settled(numbers: list) -> int:
    """How long a list is once it has not grown for a while."""
    while True:
        before = len(numbers)
        time.sleep(0.1)
        if len(numbers) == before:
            return before


@pytest.mark.parametrize("depth", [0, 1, 3, 20])
def test_results_come_in_order_and_no_thread_is_left(depth):
    assert list(read_ahead(lambda number: number**2, range(10), depth)) == [n**2 for n in range(10)]
    assert list(read_ahead(str, [], depth)) == []
    assert threads() == []


def test_it_reads_so_far_ahead_and_no_further_of_what_has_no_end():
    read, main = [], threading.get_ident()

    def reading(number: int) -> int:
        read.append((number, threading.get_ident() != main))
        return number

    reads = read_ahead(reading, count(), 3)
    assert settled(read) == 0  # nothing before the first is asked for
    for taken in range(1, 4):
        assert next(reads) == taken - 1
        assert settled(read) == taken + 3
    assert read == [(number, True) for number in range(6)]
    reads.close()
    assert threads() == [] and len(read) == 6


def test_without_depth_nothing_is_read_before_it_is_taken():
    read = []
    reads = read_ahead(read.append, count(), 0)
    next(reads)
    assert settled(read) == 1 and threads() == []


@pytest.mark.parametrize("depth", [0, 4])
def test_an_error_is_raised_by_who_needs_what_could_not_be_read(depth):
    def reading(number: int) -> int:
        if number == 2:
            raise PerdureError("shard 2: gone")
        return number

    reads = read_ahead(reading, range(6), depth)
    assert [next(reads), next(reads)] == [0, 1]
    with pytest.raises(PerdureError, match=r"^shard 2: gone$"):
        next(reads)
    assert threads() == []


def test_what_is_never_taken_may_fail_and_closing_waits_for_the_read_under_way_alone():
    begun, go_on, read = threading.Event(), threading.Event(), []

    def reading(number: int) -> int:
        if number == 0:
            return 0
        read.append(number)
        begun.set()
        go_on.wait()
        raise PerdureError("nobody needs it")

    reads = read_ahead(reading, count(), 5)
    assert next(reads) == 0
    begun.wait()
    threading.Timer(0.2, go_on.set).start()
    reads.close()
    assert read == [1] and threads() == []
