"""What each worker has, seen by the others."""

import math
import multiprocessing
import time

from serving_rest.connection_counts import PAUSE_S, ConnectionCounts, Share


def test_the_fewest_of_those_that_take_connections_count() -> None:
    counts = ConnectionCounts(3)
    assert len(counts) == 3
    assert counts.lowest() == 0  # nobody takes any
    counts.set(0, 7)
    counts.set(2, 5)
    assert counts.lowest() == 5
    counts.set(2, 9)
    assert counts.lowest() == 7
    counts.clear(0)
    assert counts.lowest() == 9
    counts.set(1, 0)
    assert counts.lowest() == 0


def test_processes_see_each_others() -> None:
    counts = ConnectionCounts(2)
    counts.set(0, 3)
    fork = multiprocessing.get_context("fork")
    other = fork.Process(target=lambda: counts.set(1, counts.lowest() - 1))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert counts.lowest() == 2


def test_who_has_more_pauses_and_then_takes_one() -> None:
    counts = ConnectionCounts(2)
    mine, other = Share(counts, 0), Share(counts, 1)
    other.publish(8)
    assert not mine.pause(10)  # a quarter more is allowed
    began = time.monotonic()
    assert mine.pause(11)
    until = mine.paused_until(began, 11)
    assert began < until <= time.monotonic() + PAUSE_S
    assert mine.paused_until(until, 11) == -math.inf
    assert not mine.pause(11)
    assert mine.pause(12)


def test_a_pause_ends_when_the_others_have_as_many_or_are_gone() -> None:
    counts = ConnectionCounts(2)
    mine, other = Share(counts, 0), Share(counts, 1)
    for end in (lambda: other.publish(9), other.clear):
        mine.publish(9)
        other.publish(0)
        assert mine.pause(9)
        assert mine.paused_until(time.monotonic(), 9) > 0
        end()
        assert mine.paused_until(time.monotonic(), 9) == -math.inf
