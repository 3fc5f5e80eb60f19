"""What we use of other packages beyond their documented interface is there and works.

The bounds in the pyproject.toml files keep these versions. Whoever raises a bound learns here what
to change.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from geventhttpclient import _parser
from geventhttpclient.response import HTTPResponse
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

# In a process of its own: importing locust may patch the standard library.
LOCUST = """
from gevent import monkey
from locust import runners
from locust.rpc import Message

assert not monkey.is_module_patched("socket"), "LOCUST_SKIP_MONKEY_PATCH has no effect"
assert isinstance(runners.STATE_MISSING, str), "runners.STATE_MISSING is not a state"
worker = runners.WorkerNode("a", state=runners.STATE_MISSING)
assert (worker.id, worker.state) == ("a", runners.STATE_MISSING), "WorkerNode: no id or state"
for runner in (runners.MasterRunner, runners.WorkerRunner):
    for method in ("register_message", "send_message"):
        assert callable(getattr(runner, method, None)), f"{runner.__name__} has no {method}"
clients = runners.WorkerNodes()
clients["a"] = worker
assert list(clients.values()) == [worker], "WorkerNodes is not a mapping of workers"
message = Message("progress", {"phase": "ready"}, "a")
assert message.data == {"phase": "ready"}, "Message has no data"
assert message.node_id == "a", "Message has no node_id"
"""


def changed(package: str, what: str, user: str) -> str:
    return f"{package} {version(package)} has changed {what}; adapt {user}, then raise the bound"


def test_locust_runners_exchange_messages_without_a_patched_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCUST],
        env={**os.environ, "LOCUST_SKIP_MONKEY_PATCH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, changed(
        "locust", done.stderr.strip().rpartition("\n")[2], "loadtest/locustfiles/coordination.py"
    )


def test_geventhttpclient_parses_what_a_blocking_socket_received() -> None:
    user = "loadtest/locustfiles/rest_connection.py"
    response = HTTPResponse()
    response.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nServer-Timing: total\r\n\r\nbo")
    assert not response.message_complete
    response.feed(b"dy")
    assert response.message_complete
    assert not response.should_close()
    body = getattr(response, "_body_buffer", None)
    assert body == b"body", changed("geventhttpclient", "HTTPResponse._body_buffer", user)
    error = getattr(_parser, "HTTPParseError", Exception)
    assert error is not Exception, changed("geventhttpclient", "_parser.HTTPParseError", user)
    with pytest.raises(error):
        HTTPResponse().feed(b"nonsense\r\n\r\n")


def test_prometheus_histograms_keep_a_sum_and_buckets_below_their_bounds() -> None:
    histogram = Histogram("h", "Text.", buckets=(1.0, 2.0), registry=None)
    for name in ("_sum", "_buckets", "_upper_bounds"):
        assert hasattr(histogram, name), changed(
            "prometheus_client", f"Histogram.{name}", "monitoring/metrics.py"
        )
    assert histogram._upper_bounds == [1.0, 2.0, float("inf")]
    histogram._buckets[1].inc(1)
    histogram._sum.inc(1.5)
    samples = {s.labels.get("le", s.name): s.value for m in histogram.collect() for s in m.samples}
    assert samples.items() >= {"1.0": 0.0, "2.0": 1.0, "+Inf": 1.0, "h_sum": 1.5}.items()


def test_prometheus_values_are_of_the_class_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Recorded(values.MutexValue):
        def __init__(self, *args: object, **options: object) -> None:
            made.append(args)
            super().__init__(*args, **options)

    assert hasattr(values, "ValueClass"), changed(
        "prometheus_client", "values.ValueClass", "monitoring/shared_metrics.py"
    )
    monkeypatch.setattr(values, "ValueClass", Recorded)
    registry = CollectorRegistry()
    Gauge("g", "Text.", ("a",), registry=registry).labels("1").set(7)
    assert b'g{a="1"} 7.0' in generate_latest(registry)
    assert made == [("gauge", "g", "g", ("a",), ("1",), "Text.")], changed(
        "prometheus_client", "the arguments of values.ValueClass", "monitoring/shared_metrics.py"
    )


def test_prometheus_files_of_values_are_read_as_they_are_written(tmp_path: Path) -> None:
    written = MmapedDict(str(tmp_path / "counter_1.db"))
    key = mmap_key("m", "m_total", ["a"], ["1"], "Text.")
    assert written.read_value(key) == (0.0, 0.0)
    written.write_value(key, 2.0, 3.0)
    written.close()
    (found,) = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_1.db"))
    assert found[:3] == (key, 2.0, 3.0), changed(
        "prometheus_client", "mmap_dict.MmapedDict", "monitoring/shared_metrics.py"
    )
