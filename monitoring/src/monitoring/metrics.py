"""Names and buckets of every metric, and the metrics of a model server.

Servers, load test, rules and dashboards import the names. Labels are the client's name and the
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

# Metrics of a running load test, see loadtest/live_metrics.py.
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


# 50 us to 10 s in steps of a tenth, for the accuracy of percentiles. Twice as many buckets as with
# a factor of 1.24 add 0.4 us to the 12 us of each request.
DURATION_BUCKETS = exponential_buckets(50e-6, LARGEST_BUCKET_S, 1.1)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class _Durations(Histogram):
    """A histogram with a binary search for the bucket; the library's search is linear."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count `amount` in its bucket; exemplars are not supported."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


class ServingMetrics:
    """The metrics of one server process."""

    def __init__(
        self, registry: CollectorRegistry, protocol: str, model_name: str, model_version: str
    ) -> None:
        """Create the metrics in `registry`.

        Args:
            registry: Holds the metrics; in multiprocess mode a collector reads their values from
                the files of all processes.
            protocol: "rest" or "grpc".
            model_name: The name in responses.
            model_version: The version in model.json.
        """
        self._protocol = protocol
        # The library's lookup of a labelled child takes a microsecond, for each of five metrics.
        self._by_variation = cache(self._create_by_variation)
        self._by_code = cache(self._create_by_code)
        labels = ("protocol", "variation")
        self._requests = Counter(
            REQUESTS,
            "Completed prediction requests, by status code.",
            ("protocol", "client", "variation", "code"),
            registry=registry,
        )
        self._durations = [
            _Durations(name, text, labels, buckets=DURATION_BUCKETS, registry=registry)
            for name, text in (
                (REQUEST_DURATION, "Server latency, from request to response."),
                (QUEUE_DURATION, "Queue time, from arrival to the start of inference."),
                (COMPUTE_DURATION, "Inference time of the whole batch."),
            )
        ]
        self._batch_size = Histogram(
            BATCH_SIZE,
            "Instances in the batch of a request.",
            labels,
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge(
            IN_FLIGHT,
            "In-flight prediction requests.",
            ("protocol",),
            registry=registry,
            multiprocess_mode="livesum",
        ).labels(protocol)
        # Info does not work in multiprocess mode.
        Gauge(
            MODEL_INFO,
            "Name and version of the served model; always 1.",
            ("protocol", "model", "version"),
            registry=registry,
            multiprocess_mode="livemax",
        ).labels(protocol, model_name, model_version).set(1)
        Gauge(
            START_TIME,
            "Unix time when the oldest live process loaded the model.",
            ("protocol",),
            registry=registry,
            multiprocess_mode="livemin",
        ).labels(protocol).set_to_current_time()

    def begin(self) -> None:
        """Count a request as in flight until `observe`."""
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
        """Record a completed request.

        Args:
            client: The client's name, "direct" for a request that bypassed the gateway.
            variation: The variation's label.
            code: HTTP status or gRPC status name.
            total_s: Server latency.
            queue_s: Queue time; None without inference.
            compute_s: Inference time; None without inference.
            batch_size: Instances in its batch.
        """
        total, queue, compute, batch_sizes = self._by_variation(variation)
        total.observe(total_s)
        if queue_s is not None:
            queue.observe(queue_s)
        if compute_s is not None:
            compute.observe(compute_s)
        if batch_size is not None:
            batch_sizes.observe(batch_size)
        self._in_flight.dec()
        # Last: a process killed in between has not counted a request without a response.
        self._by_code(client, variation, code).inc()

    def _create_by_variation(self, variation: str) -> tuple[Any, Any, Any, Any]:
        total, queue, compute = (
            histogram.labels(self._protocol, variation) for histogram in self._durations
        )
        return total, queue, compute, self._batch_size.labels(self._protocol, variation)

    def _create_by_code(self, client: str, variation: str, code: str) -> Counter:
        return self._requests.labels(self._protocol, client, variation, code)
