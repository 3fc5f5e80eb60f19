"""What each worker has, seen by the others."""

import multiprocessing

from serving_rest.connection_counts import ConnectionCounts


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
