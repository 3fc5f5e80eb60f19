"""What the processes of a server cost, read from the system when somebody asks."""

from collections.abc import Iterable

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.metrics import PROCESS_CPU, RESIDENT_MEMORY


class ProcessTree(Collector):
    """CPU time and memory of a server's parent process and all that it has started.

    Prometheus's own process metrics know nothing of several workers. A worker that has ended stays
    in the CPU time: the system adds it to its parent's when that has taken note of the end.
    """

    def __init__(self, parent: int, protocol: str, registry: CollectorRegistry) -> None:
        """Add to `registry` what `parent`, a process id, and its children cost."""
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
            except psutil.Error:  # it has just ended
                continue
        cpu = CounterMetricFamily(
            PROCESS_CPU, "CPU time of all processes of the server.", labels=("protocol",)
        )
        cpu.add_metric((self._protocol,), cpu_s)
        yield cpu
        memory = GaugeMetricFamily(
            RESIDENT_MEMORY, "Resident memory of all its processes.", labels=("protocol",)
        )
        memory.add_metric((self._protocol,), resident)
        yield memory
