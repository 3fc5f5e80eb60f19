"""The cost of a server's processes, measured on real ones."""

import os
import subprocess
import sys

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.process_tree import ProcessTree

BURN = """
import sys, time
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
print("burnt", flush=True)
sys.stdin.read()
"""


def read(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_children_count_while_they_live_and_afterwards() -> None:
    registry = CollectorRegistry()
    ProcessTree(os.getpid(), "rest", registry)
    before = read(registry)
    command = [sys.executable, "-c", BURN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        during = read(registry)
        child.kill()
    after = read(registry)
    cpu = "seldon_process_cpu_seconds_total"
    assert during[cpu] - before[cpu] > 0.27  # the system counts in hundredths
    assert after[cpu] >= during[cpu]  # a counter never goes back
    memory = "seldon_resident_memory_bytes"
    assert during[memory] - before[memory] > 5e6
    assert after[memory] < during[memory]


def test_a_server_that_is_gone_has_no_metrics() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    registry = CollectorRegistry()
    ProcessTree(child.pid, "rest", registry)
    assert read(registry) == {}
