"""The parts of gunicorn that worker.py and server.py rely on are there."""

import inspect
import os

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.workers.base import Worker as BaseWorker

from serving_rest.worker import Worker


def own_methods() -> list[str]:
    return [name for name, value in vars(Worker).items() if inspect.isfunction(value)]


@pytest.mark.parametrize("name", [name for name in own_methods() if not name.startswith("_")])
def test_gunicorns_worker_has_the_methods_that_ours_replaces(name: str) -> None:
    theirs = inspect.signature(getattr(BaseWorker, name))
    assert len(theirs.parameters) == len(inspect.signature(getattr(Worker, name)).parameters)


def test_a_worker_has_the_attributes_that_ours_uses() -> None:
    worker = Worker(1, os.getpid(), [], None, 1, Config(), None)
    worker.tmp.close()  # the file by which the master sees that a worker lives
    for name in ("age", "app", "cfg", "log", "notify", "ppid", "sockets"):
        assert hasattr(worker, name), name
    assert "wsgi" in BaseWorker.load_wsgi.__code__.co_names
    assert hasattr(Arbiter, "WORKERS")
