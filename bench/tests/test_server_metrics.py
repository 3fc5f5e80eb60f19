from prometheus_client import CollectorRegistry, generate_latest

from bench.server_metrics import parse
from monitoring.metrics import ServingMetrics


def test_batches_and_refusals_are_counted_as_the_servers_report_them() -> None:
    registry = CollectorRegistry()
    metrics = ServingMetrics(registry, "grpc", "m", "1")
    for size in (1, 1, 4, 16, 16, 16):
        metrics.observe("c", "v", "OK", 0.1, 0.1, 0.1, size)
    before = parse(generate_latest(registry).decode())
    assert before.by_batch == {1: 2, 4: 1, 16: 3}
    assert before.refused == 0
    metrics.observe("c", "v", "OK", 0.1, 0.1, 0.1, 4)
    metrics.observe("c", "v", "RESOURCE_EXHAUSTED", 0.1)
    since = parse(generate_latest(registry).decode()).since(before)
    assert since.by_batch == {4: 1}
    assert since.refused == 1
