"""CPU time and memory of a server's processes, read at each scrape."""

from collections.abc import Iterable

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.metrics import PROCESS_CPU, RESIDENT_MEMORY


class ProcessTree(Collector):
    """Collects the CPU time and memory of a process and its descendants.

    Prometheus's process metrics cover one process. The system adds the CPU time of a worker to its
    parent's when the parent waits for it, so the counter never decreases.
    """

    def __init__(self, parent: int, protocol: str, registry: CollectorRegistry) -> None:
        """Register a collector for the process with the id `parent`."""
        self._parent = parent
        self._protocol = protocol
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Called for every scrape."""
        cpu_s = resident = 0.0
        try:
            parent = psutil.Process(self._parent)
            times = parent.cpu_times()
            cpu_s = times.children_user + times.children_system
            tree = [parent, *parent.children(recursive=True)]
        except psutil.Error:
            return
        for process in tree:
            try:
                times = process.cpu_times()
                cpu_s += times.user + times.system
                resident += process.memory_info().rss
            except psutil.Error:  # the process has exited
                continue
        cpu = CounterMetricFamily(
            PROCESS_CPU, "CPU time of all server processes.", labels=("protocol",)
        )
        cpu.add_metric((self._protocol,), cpu_s)
        yield cpu
        memory = GaugeMetricFamily(
            RESIDENT_MEMORY, "Resident memory of all server processes.", labels=("protocol",)
        )
        memory.add_metric((self._protocol,), resident)
        yield memory
