import os
import signal
import subprocess
import sys

import pytest

from serving_grpc.pool import WorkerPool, WorkersFailed


def test_workers_that_die_again_and_again_before_they_are_ready_end_the_pool(tmp_path):
    ended: list[int] = []
    # An interpreter without its library: it ends before it can say why.
    pool = WorkerPool(2, {"PYTHONHOME": str(tmp_path)}, 1.0, ended.append)
    with pytest.raises(WorkersFailed, match=r"worker \d+ ended with exit status 1 before it was"):
        pool.run()
    assert len(ended) >= 3
    assert not pool.ready


def test_a_pool_stopped_before_it_runs_starts_no_worker_that_stays(tmp_path):
    ended: list[int] = []
    pool = WorkerPool(1, {"PYTHONHOME": str(tmp_path)}, 1.0, ended.append)
    pool.stop()
    pool.run()
    assert len(ended) <= 1


def test_a_worker_that_loses_its_parent_while_it_loads_ends(tmp_path):
    environ = os.environ | {"MODEL_FOLDER": str(tmp_path), "GRPC_PORT": "0"}
    worker = subprocess.run(
        [sys.executable, "-m", "serving_grpc.worker"],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    # By the signal of its lifeline, or because it had found no model before that came.
    assert worker.returncode in (-signal.SIGTERM, 1)
    assert "Traceback" not in worker.stderr
