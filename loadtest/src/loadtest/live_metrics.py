"""Prometheus metrics of a running load test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from loadtest.series import Series
from loadtest.settings import LoadTestSettings, host_and_port
from monitoring.metrics import (
    DURATION_BUCKETS,
    LOADTEST_BUSY,
    LOADTEST_DURATION,
    LOADTEST_LAG,
    LOADTEST_OFFERED,
    LOADTEST_PART,
    LOADTEST_REQUESTS,
    LOADTEST_RUNNING,
)

Report = Mapping[str, Any]  # a load generator's progress
LABELS = ("protocol",)


class LiveMetrics(Collector):
    """Exports the load generators' latest reports, summed by protocol."""

    def __init__(
        self,
        runs: Sequence[LoadTestSettings],
        reports: Callable[[], Sequence[Report]],
        registry: CollectorRegistry,
    ) -> None:
        """Register with `registry`; every scrape calls `reports`."""
        self._runs = runs
        self._reports = reports
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Collect the metrics of a scrape."""
        reports = [one for one in self._reports() if "live" in one]
        duration = HistogramMetricFamily(
            LOADTEST_DURATION, "Request latency from the scheduled send.", labels=LABELS
        )
        requests = CounterMetricFamily(
            LOADTEST_REQUESTS, "Completed requests.", labels=(*LABELS, "outcome")
        )
        parts = CounterMetricFamily(
            LOADTEST_PART, "Latency of measured requests by part.", labels=(*LABELS, "part")
        )
        lag = GaugeMetricFamily(LOADTEST_LAG, "Dispatch lag, 99th percentile.", labels=LABELS)
        busy = GaugeMetricFamily(
            LOADTEST_BUSY, "CPU utilization of the busiest load generator.", labels=LABELS
        )
        offered = GaugeMetricFamily(
            LOADTEST_OFFERED, "Arrival rate of the schedule.", labels=LABELS
        )
        running = GaugeMetricFamily(
            LOADTEST_RUNNING, "Running load generators.", labels=(*LABELS, "phase")
        )
        for protocol in dict.fromkeys(run.protocol for run in self._runs):
            mine = [one for one in reports if one["protocol"] == protocol]
            live = [one["live"] for one in mine]
            client = Series()
            for one in live:
                client.merge(Series.decode(one["client"]))
            duration.add_metric((protocol,), buckets(client), client.sum_us / 1e6)
            requests.add_metric((protocol, "success"), client.count)
            requests.add_metric((protocol, "failure"), sum(one["failures"] for one in live))
            for part in live[0]["sums_us"] if live else ():
                total_us = sum(one["sums_us"][part] for one in live)
                parts.add_metric((protocol, part), total_us / 1e6)
            lags = [one["lag_p99_ms"] for one in live if one["lag_p99_ms"] is not None]
            if lags:
                lag.add_metric((protocol,), max(lags) / 1000)
            shares = [one["busy"] for one in live if one["busy"] is not None]
            if shares:
                busy.add_metric((protocol,), max(shares))
            rates = [one.rate for one in self._runs if one.protocol == protocol]
            if None not in rates:
                offered.add_metric((protocol,), sum(rate or 0.0 for rate in rates))
            phases = [one["phase"] for one in mine]
            for phase in dict.fromkeys(phases):
                running.add_metric((protocol, phase), phases.count(phase))
        return (duration, requests, parts, lag, busy, offered, running)


def buckets(series: Series) -> list[tuple[str, float]]:
    """Cumulative counts at the servers' bucket bounds, so that one query reads both."""
    found = series.buckets()
    high_s = found.high_us / 1e6
    counts = [float(found.counts[high_s <= bound].sum()) for bound in DURATION_BUCKETS]
    named = [(str(bound), count) for bound, count in zip(DURATION_BUCKETS, counts, strict=True)]
    return [*named, ("+Inf", float(series.count))]


@contextmanager
def served(
    runs: Sequence[LoadTestSettings],
    reports: Callable[[], Sequence[Report]],
    note: Callable[[str], None],
) -> Iterator[None]:
    """Serve /metrics at the runs' `metrics_bind`, if set, within the context."""
    if runs[0].metrics_bind is None:
        yield
        return
    host, port = host_and_port("--metrics-bind", runs[0].metrics_bind)
    registry = CollectorRegistry()
    LiveMetrics(runs, reports, registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        note(f"--metrics-bind {runs[0].metrics_bind} is not available, no live metrics: {error}")
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
