import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.errors import BenchError
from bench.processes import assign_cores, cpu_s, end, on_cores, start, worker_memory

# Works for a quarter of a second in a child that ends, then as long in one that stays.
TREE = """
import subprocess, sys, time
spin = "import time\\nwhile time.process_time() < 0.25: pass"
subprocess.run([sys.executable, "-c", spin])
hold = spin + "\\nheld = b'x' * 50_000_000; time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", hold])
open(sys.argv[1], "w").write("done")
child.wait()
"""


def test_the_server_has_a_core_that_the_client_has_not() -> None:
    two, three = assign_cores({0, 1}), assign_cores({4, 5, 7})
    assert (two.server, two.client, two.gateway) == ({1}, {0}, {0})
    assert (two.two_workers, two.client_of_two) == ({0, 1}, {0, 1})
    assert (three.server, three.client, three.gateway) == ({5}, {4}, {7})
    assert (three.two_workers, three.client_of_two) == ({5, 7}, {4})
    with pytest.raises(BenchError, match="expected 2 or more"):
        assign_cores({3})


def test_what_is_started_is_pinned_and_its_starter_is_not(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    one = {min(before)}
    show = [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"]
    started = start(show, os.environ, one, tmp_path / "log")
    assert started.wait(30) == 0
    assert (tmp_path / "log").read_text().strip() == str(one)
    with pytest.raises(ZeroDivisionError), on_cores(one):
        _ = 1 / 0
    assert os.sched_getaffinity(0) == before


def test_cost_memory_and_end_are_those_of_the_whole_tree(tmp_path: Path) -> None:
    done = tmp_path / "done"
    tree = start(
        [sys.executable, "-c", TREE, str(done)], os.environ, os.sched_getaffinity(0), tmp_path / "l"
    )
    try:
        parent = psutil.Process(tree.pid)
        while not done.exists() or worker_memory(tree.pid)["uss_mb"] < 50:
            assert tree.poll() is None
        children = parent.children(recursive=True)
        assert len(children) == 1
        assert cpu_s(tree.pid) >= 0.5  # of both
        memory = worker_memory(tree.pid)
        assert 50 <= memory["uss_mb"] <= memory["rss_mb"] < 100
    finally:
        end(tree)
    assert not any(child.is_running() for child in children)


def test_a_program_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no-such-program did not start"):
        start(["no-such-program"], os.environ, os.sched_getaffinity(0), tmp_path / "log")


def test_what_has_ended_costs_nothing_more() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert cpu_s(ended.pid) == 0
