"""What each worker has, seen by the others."""

import multiprocessing

from serving_rest.shares import Shares


def test_the_fewest_of_those_that_take_connections_count() -> None:
    shares = Shares(3)
    assert len(shares) == 3
    assert shares.fewest() == 0  # nobody takes any
    shares.tell(0, 7)
    shares.tell(2, 5)
    assert shares.fewest() == 5
    shares.tell(2, 9)
    assert shares.fewest() == 7
    shares.leave(0)
    assert shares.fewest() == 9
    shares.tell(1, 0)
    assert shares.fewest() == 0


def test_processes_see_each_others() -> None:
    shares = Shares(2)
    shares.tell(0, 3)
    fork = multiprocessing.get_context("fork")
    other = fork.Process(target=lambda: shares.tell(1, shares.fewest() - 1))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert shares.fewest() == 2
