import ast
from itertools import pairwise
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from monitoring import gateway_metrics, metrics

ROOT = Path(__file__).parents[2]


def test_buckets_are_fine_enough_for_half_a_millisecond() -> None:
    bounds = metrics.DURATION_BUCKETS
    assert bounds[0] == 50e-6
    assert bounds[-1] == 10.0
    assert all(low < high <= low * 1.25 for low, high in pairwise(bounds))


def test_an_ended_request_is_counted_with_its_times() -> None:
    registry = CollectorRegistry()
    served = metrics.ServingMetrics(registry, "rest", "deep_mnist", "1")
    served.observe("acme", "canary", "200", 0.004, 0.001, 0.002, 8)
    labels = {"protocol": "rest", "variation": "canary"}
    value = registry.get_sample_value
    assert value("seldon_requests_total", {**labels, "client": "acme", "code": "200"}) == 1
    assert value("seldon_request_duration_seconds_sum", labels) == 0.004
    assert value("seldon_queue_duration_seconds_sum", labels) == 0.001
    assert value("seldon_compute_duration_seconds_sum", labels) == 0.002
    assert value("seldon_batch_size_sum", labels) == 8


def test_a_refused_request_has_no_compute_time() -> None:
    registry = CollectorRegistry()
    metrics.ServingMetrics(registry, "grpc", "deep_mnist", "1").observe(
        "acme", "default", "INVALID_ARGUMENT", 0.0001
    )
    labels = {"protocol": "grpc", "variation": "default"}
    assert registry.get_sample_value("seldon_request_duration_seconds_count", labels) == 1
    assert registry.get_sample_value("seldon_compute_duration_seconds_count", labels) == 0


def test_in_flight_rises_at_the_beginning_and_falls_with_the_end() -> None:
    registry = CollectorRegistry()
    served = metrics.ServingMetrics(registry, "grpc", "deep_mnist", "1")
    gauge = "seldon_requests_in_flight"
    served.begin()
    assert registry.get_sample_value(gauge, {"protocol": "grpc"}) == 1
    served.observe("direct", "default", "INTERNAL", 0.001)
    assert registry.get_sample_value(gauge, {"protocol": "grpc"}) == 0


def test_the_model_and_its_start_are_reported() -> None:
    registry = CollectorRegistry()
    metrics.ServingMetrics(registry, "rest", "deep_mnist", "1")
    text = generate_latest(registry).decode()
    assert 'seldon_model_info{model="deep_mnist",protocol="rest",version="1"} 1.0' in text
    assert "seldon_start_time_seconds{" in text


def test_no_other_module_spells_a_metrics_name() -> None:
    """Or a renamed one would leave it asking for what is no more."""
    names = {
        value
        for module in (metrics, gateway_metrics)
        for name, value in vars(module).items()
        if name.isupper() and type(value) is str
    }
    sources = list(ROOT.glob("*/src/**/*.py"))
    assert len(sources) > 100
    own = {Path(str(module.__file__)) for module in (metrics, gateway_metrics)}
    found = [
        (path.relative_to(ROOT).as_posix(), node.value)
        for path in sources
        if path not in own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if any(name in node.value for name in names if "_" in name)
    ]
    assert found == []
