"""The names and buckets of every metric, and the set that a server reports.

Servers, dashboards and rules take the names from here. Labels are the client's name and the
variation's label, never a key or an address. Times are in seconds.
"""

from bisect import bisect_left
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REQUESTS = "seldon_requests"
REQUEST_DURATION = "seldon_request_duration_seconds"
QUEUE_DURATION = "seldon_queue_duration_seconds"
COMPUTE_DURATION = "seldon_compute_duration_seconds"
BATCH_SIZE = "seldon_batch_size"
IN_FLIGHT = "seldon_requests_in_flight"
MODEL_INFO = "seldon_model_info"
START_TIME = "seldon_start_time_seconds"
PROCESS_CPU = "seldon_process_cpu_seconds"
RESIDENT_MEMORY = "seldon_resident_memory_bytes"

# What a load test reports while it runs, see loadtest/live_metrics.py.
LOADTEST_PORT = 9646
LOADTEST_DURATION = "loadtest_request_duration_seconds"
LOADTEST_REQUESTS = "loadtest_requests"
LOADTEST_PART = "loadtest_part_seconds"
LOADTEST_LAG = "loadtest_dispatch_lag_p99_seconds"
LOADTEST_BUSY = "loadtest_generator_busy_ratio"
LOADTEST_OFFERED = "loadtest_offered_per_second"
LOADTEST_RUNNING = "loadtest_running"

LARGEST_BUCKET_S = 10.0


def exponential_buckets(first: float, last: float, factor: float) -> tuple[float, ...]:
    """Upper bounds from `first` to `last`, each at most `factor` times the one before."""
    bounds = [first]
    while bounds[-1] * factor < last:
        bounds.append(bounds[-1] * factor)
    return (*(float(f"{bound:.4g}") for bound in bounds), last)


# 50 us to 10 s, so close that a p99 of few requests in its bucket is within some per cent. Twice as
# many as with a factor of 1.24 cost 0.4 us more for each request, of 12.
DURATION_BUCKETS = exponential_buckets(50e-6, LARGEST_BUCKET_S, 1.1)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class _Durations(Histogram):
    """A histogram that looks for the bucket by halves: the client's looks at each in turn."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """As Histogram's, without exemplars."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


class ServingMetrics:
    """What one server process reports about the predictions it answers."""

    def __init__(
        self, registry: CollectorRegistry, protocol: str, model_name: str, model_version: str
    ) -> None:
        """Create the metrics in `registry`.

        Args:
            registry: In a server of several processes the Prometheus client's multiprocess
                mode stores the values; its collector reads them for every process at once.
            protocol: "rest" or "grpc".
            model_name: As answers give it.
            model_version: As model.json gives it.
        """
        self._protocol = protocol
        # The client's own look-up of a labelled child takes a microsecond, for each of five.
        self._of_variation = cache(self._find_of_variation)
        self._of_code = cache(self._find_of_code)
        labels = ("protocol", "variation")
        self._requests = Counter(
            REQUESTS,
            "Predictions asked for, by their end.",
            ("protocol", "client", "variation", "code"),
            registry=registry,
        )
        self._durations = [
            _Durations(name, text, labels, buckets=DURATION_BUCKETS, registry=registry)
            for name, text in (
                (REQUEST_DURATION, "From the request read to the answer written, in the server."),
                (QUEUE_DURATION, "Waiting for the engine."),
                (COMPUTE_DURATION, "In the engine, for the whole batch."),
            )
        ]
        self._batch_size = Histogram(
            BATCH_SIZE,
            "Instances in the engine call that answered a request.",
            labels,
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge(
            IN_FLIGHT,
            "Predictions being answered now.",
            ("protocol",),
            registry=registry,
            multiprocess_mode="livesum",
        ).labels(protocol)
        # A gauge of 1, since Info does not work in multiprocess mode.
        Gauge(
            MODEL_INFO,
            "The model served; always 1.",
            ("protocol", "model", "version"),
            registry=registry,
            multiprocess_mode="livemax",
        ).labels(protocol, model_name, model_version).set(1)
        Gauge(
            START_TIME,
            "When the oldest living process of the server loaded its model, Unix time.",
            ("protocol",),
            registry=registry,
            multiprocess_mode="livemin",
        ).labels(protocol).set_to_current_time()

    def begin(self) -> None:
        """Count one request more as in flight; `observe` ends it."""
        self._in_flight.inc()

    def observe(
        self,
        client: str,
        variation: str,
        code: str,
        total_s: float,
        queue_s: float | None = None,
        compute_s: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Count one request that has ended.

        Args:
            client: The client's name, "direct" for a call that came past the gateway.
            variation: The variation's label.
            code: HTTP status or gRPC status name.
            total_s: Seconds in the server.
            queue_s: Seconds waiting for the engine; None when it never got there.
            compute_s: Seconds in the engine; None when it never got there.
            batch_size: Instances in that engine call.
        """
        total, queue, compute, batch_sizes = self._of_variation(variation)
        total.observe(total_s)
        if queue_s is not None:
            queue.observe(queue_s)
        if compute_s is not None:
            compute.observe(compute_s)
        if batch_size is not None:
            batch_sizes.observe(batch_size)
        self._in_flight.dec()
        # Last: a process that is killed in between has not counted what nobody was answered.
        self._of_code(client, variation, code).inc()

    def _find_of_variation(self, variation: str) -> tuple[Any, Any, Any, Any]:
        total, queue, compute = (
            histogram.labels(self._protocol, variation) for histogram in self._durations
        )
        return total, queue, compute, self._batch_size.labels(self._protocol, variation)

    def _find_of_code(self, client: str, variation: str, code: str) -> Counter:
        return self._requests.labels(self._protocol, client, variation, code)
