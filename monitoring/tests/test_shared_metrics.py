"""Counts of workers that come and go: none is lost, none is there twice."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.shared_metrics import SharedMetrics, absorb, forget

# A worker that counts `n` requests of half a millisecond, tells so, and stays.
WORKER = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from monitoring.metrics import ServingMetrics
from monitoring.shared_metrics import share
share(Path(sys.argv[2]))
metrics = ServingMetrics(CollectorRegistry(), "rest", "m", "1")
for _ in range(int(sys.argv[1])):
    metrics.observe("c", "v", "200", 0.0005, 0.0, 0.0004, 1)
print("counted", flush=True)
sys.stdin.read()
"""
# A worker that stops when it has opened its first file, which is empty then.
STARTING = """
import os, signal, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from monitoring.metrics import ServingMetrics
from monitoring.shared_metrics import share
share(Path(sys.argv[1]))
os.fstat = lambda _: os.kill(os.getpid(), signal.SIGSTOP)
ServingMetrics(CollectorRegistry(), "rest", "m", "1")
"""
# A worker whose file outgrows its first size of 64 KiB between two counts of one value.
GROWING = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter
from monitoring.shared_metrics import share
share(Path(sys.argv[1]))
counter = Counter("counted", "Text.", ["of"], registry=CollectorRegistry())
counter.labels("first").inc(2)
for number in range(2000):
    counter.labels(str(number)).inc()
counter.labels("first").inc(3)
"""
# A thousand workers, one after the other, that count three requests and are killed.
THOUSAND = """
import json, os, signal, statistics, sys, time
from pathlib import Path
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from monitoring.metrics import ServingMetrics
from monitoring.shared_metrics import SharedMetrics, absorb, share

folder = Path(sys.argv[1])
registry = CollectorRegistry()
SharedMetrics(folder, registry)

def size():
    return sum(path.stat().st_size for path in folder.iterdir())

def count(times):
    share(folder)
    metrics = ServingMetrics(CollectorRegistry(), "rest", "m", "1")
    for number in range(times):
        metrics.observe("c", f"v{number}", "200", 0.0005, 0.0, 0.0004, 1)

for number in range(1000):
    pid = os.fork()
    if not pid:
        count(3)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    absorb(folder, pid)
    if not number:
        after_one = size()
count(0)  # one lives
took = []
for _ in range(5):
    began = time.perf_counter()
    text = generate_latest(registry).decode()
    took.append(time.perf_counter() - began)
counted = sum(
    sample.value
    for family in text_string_to_metric_families(text)
    for sample in family.samples
    if sample.name == "seldon_request_duration_seconds_count"
)
print(json.dumps({
    "counted": counted, "scrape_s": statistics.median(took), "bytes": size(),
    "bytes_after_one": after_one, "files": sorted(path.name for path in folder.iterdir()),
}))
"""
COUNT = "seldon_request_duration_seconds_count"
REQUESTS = "seldon_requests_total"
MODEL = "seldon_model_info"


def worker(folder: Path, count: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(count), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def end(folder: Path, process: "subprocess.Popen[str]") -> None:
    process.kill()
    with process:
        process.wait()
    absorb(folder, process.pid)


def read(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_what_killed_workers_have_counted_stays(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    SharedMetrics(tmp_path, registry)
    stays = worker(tmp_path, 5)
    for number in range(1, 4):
        end(tmp_path, worker(tmp_path, 10 * number))
    found = read(registry)
    assert found[COUNT] == found[REQUESTS] == 5 + 10 + 20 + 30
    assert found["seldon_request_duration_seconds_bucket"] == 65  # +Inf, the last
    assert found["seldon_batch_size_sum"] == 65
    assert found[MODEL] == 1  # of the one that lives
    end(tmp_path, stays)
    found = read(registry)
    assert found[COUNT] == found[REQUESTS] == 65
    assert MODEL not in found
    assert {path.name for path in tmp_path.glob("*.db")} == {"counter_gone.db", "histogram_gone.db"}
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_killed_while_it_creates_its_files(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    SharedMetrics(tmp_path, registry)
    serves = worker(tmp_path, 5)
    starts = subprocess.Popen([sys.executable, "-c", STARTING, str(tmp_path)])
    _, status = os.waitpid(starts.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert 0 in [path.stat().st_size for path in tmp_path.glob(f"*_{starts.pid}.*")]
    assert read(registry)[COUNT] == 5
    starts.kill()
    starts.wait()
    absorb(tmp_path, starts.pid)
    assert list(tmp_path.glob(f"*_{starts.pid}.*")) == []
    assert read(registry)[COUNT] == 5
    end(tmp_path, serves)
    assert read(registry)[COUNT] == 5


def test_values_stay_where_they_are_when_their_file_grows(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    SharedMetrics(tmp_path, registry)
    subprocess.run([sys.executable, "-c", GROWING, str(tmp_path)], check=True)
    (file,) = tmp_path.glob("counter_*.db")
    assert file.stat().st_size > 1 << 16
    found = {
        sample.labels["of"]: sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    assert found == {"first": 5} | {str(number): 1 for number in range(2000)}


def test_a_scrape_never_sees_a_count_twice_or_not_at_all(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    SharedMetrics(tmp_path, registry)
    workers = [worker(tmp_path, 100) for _ in range(6)]
    seen: set[float] = set()
    over = threading.Event()

    def scrape() -> None:
        while not over.is_set():
            seen.add(read(registry)[COUNT])

    scraper = threading.Thread(target=scrape)
    scraper.start()
    for one in workers:
        end(tmp_path, one)
        time.sleep(0.02)
    over.set()
    scraper.join()
    assert seen == {600}


@pytest.mark.stack
def test_a_thousand_killed_workers_later_a_scrape_is_as_fast_and_the_folder_as_small(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THOUSAND, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counted"] == 3 * 1000
    # Of the one that lives and of all that are gone, a file for each kind; and the lock.
    assert len(found["files"]) <= 8, found["files"]
    assert found["bytes"] <= 2 * found["bytes_after_one"]
    assert found["scrape_s"] < 0.1
