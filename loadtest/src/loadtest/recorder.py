"""Records the requests of one load-generator process within its measurement windows."""

from __future__ import annotations

import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from loadtest.answers import GatewayTiming, ServerTiming
from loadtest.attribution import Row
from loadtest.series import Series

NS_PER_S = 1_000_000_000
SERIES = (
    "client",
    "sent",
    "lag",
    "gateway",
    "upstream",
    "server_total",
    "server_queue",
    "server_compute",
    "server_every",  # server latency of every response, including warm-up and failures
)
# Series whose sums are exported as live metrics.
LIVE_PARTS = ("client", "gateway", "upstream", "server_total", "server_queue", "server_compute")
MAX_ROWS = 20_000  # size of the sample for the latency breakdown


@dataclass(frozen=True)
class Outcome:
    """One completed request.

    Attributes:
        started_ns: Just before the call, by `time.perf_counter_ns`.
        ended_ns: When the response was read and parsed.
        failure: The reason of a failure; None if successful.
        server: The Server-Timing of a successful response.
        predicted: The predicted class of each instance; None without labels.
        gateway: The gateway's timing of a successful response.
        intended_ns: The scheduled send; None without a schedule.
        server_total_ms: The server latency of any response.
    """

    started_ns: int
    ended_ns: int
    failure: str | None = None
    server: ServerTiming | None = None
    predicted: tuple[int, ...] | None = None
    gateway: GatewayTiming | None = None
    intended_ns: int | None = None
    server_total_ms: float | None = None

    @property
    def latency_us(self) -> float:
        """Request latency, from the scheduled send if there is one."""
        return (self.ended_ns - self.due_ns) / 1000

    @property
    def sent_us(self) -> float:
        """From the actual send."""
        return (self.ended_ns - self.started_ns) / 1000

    @property
    def lag_us(self) -> float:
        """Dispatch lag."""
        return max(self.started_ns - self.due_ns, 0) / 1000

    @property
    def due_ns(self) -> int:
        return self.started_ns if self.intended_ns is None else self.intended_ns


@dataclass(frozen=True)
class Window:
    """A measurement window in nanoseconds of the recorder's clock, with its block's number."""

    begins_ns: int
    ends_ns: int
    number: int | None = None


class Recorder:
    """Records requests whose scheduled send lies in a window; others count as warm-up."""

    def __init__(
        self,
        process: str,
        protocol: str,
        labels: tuple[int, ...] | None,
        wrong: frozenset[int] | None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Create a recorder without windows.

        Args:
            process: The name of this process in the run.
            protocol: `rest` or `grpc`.
            labels: The class of each instance; None if unknown.
            wrong: The instances that the model is known to misclassify; None if unknown.
            clock: Nanoseconds, the clock of Outcome.
        """
        self._process = process
        self._protocol = protocol
        self._labels = labels
        self._wrong = wrong
        self._clock = clock
        self._windows: list[Window] = []
        self._blocks: dict[int, Series] = {}
        # CPU time within the windows only: the generator is idle in other runs' blocks.
        self._cpu_s = 0.0
        self._cpu_over_s = 0.0
        self._cpu_sample: tuple[int, float] | None = None  # clock and CPU time, inside a window
        self._closed = False
        self._started = _now()
        self._rng = random.Random(process)  # noqa: S311  # of a sample, not of a secret
        self._rows: list[Row] = []
        self._timed = 0
        self.requests = 0
        self.warm_up_requests = 0
        self.warm_up_failures: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._scored = 0
        self._correct = 0
        self._expected_correct = 0
        self.series = {name: Series() for name in SERIES}
        self._live_failures = 0
        self._live = Series()  # request latency of every success, including warm-up

    @property
    def client(self) -> Series:
        return self.series["client"]

    def open(self, duration_s: float) -> None:
        """Open one window of `duration_s` now."""
        now = self._clock()
        self.open_windows([Window(now, now + round(duration_s * NS_PER_S))])

    def open_windows(self, windows: Sequence[Window]) -> None:
        """Measure within `windows`, which are in order."""
        self._windows = list(windows)
        self._blocks = {one.number: Series() for one in windows if one.number is not None}
        self._started = _now()
        self.sample_cpu()

    def sample_cpu(self) -> None:
        """Account the CPU time since the last call; called often while windows open and close."""
        now, cpu_s = self._clock(), time.process_time()
        if self._cpu_sample is not None:
            before_ns, before_s = self._cpu_sample
            self._cpu_s += cpu_s - before_s
            self._cpu_over_s += (now - before_ns) / NS_PER_S
        self._cpu_sample = (now, cpu_s) if self._window_of(now) is not None else None

    def close(self) -> None:
        """Close all windows now."""
        if self._closed or not self._windows:
            return
        self.sample_cpu()
        self._closed = True
        now = self._clock()
        self._windows = [
            replace(one, ends_ns=min(one.ends_ns, now))
            for one in self._windows
            if one.begins_ns < now
        ]

    @property
    def measured_s(self) -> float:
        """The time that windows have been open."""
        now = self._clock()
        return sum(max(min(now, w.ends_ns) - w.begins_ns, 0) for w in self._windows) / NS_PER_S

    @property
    def over(self) -> bool:
        if not self._windows:
            return self._closed
        return self._clock() >= self._windows[-1].ends_ns

    def record(self, outcome: Outcome, instance: int) -> None:
        """Record a request; `instance` is the index of its first image."""
        if outcome.server_total_ms is not None:
            self.series["server_every"].record(outcome.server_total_ms * 1000)
        if outcome.failure is None:
            self._live.record(outcome.latency_us)
        else:
            self._live_failures += 1
        window = self._window_of(outcome.due_ns)
        if window is None:
            if not self._windows or outcome.due_ns < self._windows[-1].ends_ns:
                self.warm_up_requests += 1
                if outcome.failure is not None:
                    self.warm_up_failures[outcome.failure] += 1
            return
        self.requests += 1
        if outcome.failure is not None:
            self.failures[outcome.failure] += 1
            return
        self._measure(outcome, window)
        if self._labels is not None and outcome.predicted is not None:
            for place, predicted in enumerate(outcome.predicted):
                image = (instance + place) % len(self._labels)
                self._scored += 1
                self._correct += predicted == self._labels[image]
                self._expected_correct += self._wrong is None or image not in self._wrong

    def _window_of(self, due_ns: int) -> Window | None:
        index = bisect_right(self._windows, due_ns, key=lambda window: window.begins_ns) - 1
        if index < 0 or due_ns >= self._windows[index].ends_ns:
            return None
        return self._windows[index]

    def _measure(self, outcome: Outcome, window: Window) -> None:
        client_us = outcome.latency_us
        self.series["client"].record(client_us)
        if window.number is not None:
            self._blocks[window.number].record(client_us)
        if outcome.intended_ns is not None:
            self.series["sent"].record(outcome.sent_us)
            self.series["lag"].record(outcome.lag_us)
        gateway, server = outcome.gateway, outcome.server
        if gateway is not None:
            self.series["gateway"].record(gateway.in_us)
            self.series["upstream"].record(gateway.upstream_us)
        if server is not None:
            self.series["server_total"].record(server.total_ms * 1000)
            self.series["server_queue"].record(server.queue_ms * 1000)
            self.series["server_compute"].record(server.compute_ms * 1000)
        if server is not None:
            total_us = round(server.total_ms * 1000, 3)
            self._sample(
                Row(
                    client=round(client_us, 3),
                    late=round(outcome.lag_us, 3),
                    # Without gateway timing that time counts as network.
                    gateway=gateway.in_us if gateway else 0.0,
                    upstream=gateway.upstream_us if gateway else total_us,
                    server_total=total_us,
                    queue=round(server.queue_ms * 1000, 3),
                    compute=round(server.compute_ms * 1000, 3),
                )
            )

    def _sample(self, row: Row) -> None:
        """Add to a uniform reservoir sample of at most MAX_ROWS requests."""
        self._timed += 1
        if len(self._rows) < MAX_ROWS:
            self._rows.append(row)
        elif (place := self._rng.randrange(self._timed)) < MAX_ROWS:
            self._rows[place] = row

    def progress(self) -> dict[str, Any]:
        """The progress for the display and live metrics; `live` includes the warm-up."""
        p50, p99 = self.client.percentiles_ms([50, 99])
        return {
            "measured_s": round(self.measured_s, 3),
            "requests": self.requests,
            "warm_up_requests": self.warm_up_requests,
            "failures": self.failures.total(),
            "p50_ms": p50,
            "p99_ms": p99,
            "live": {
                "client": self._live.encode(),
                "failures": self._live_failures,
                "sums_us": {name: self.series[name].sum_us for name in LIVE_PARTS},
                "lag_p99_ms": self.series["lag"].percentile_ms(99),
                "busy": self._busy,
            },
        }

    @property
    def _busy(self) -> float | None:
        """CPU utilization within the windows, of one core."""
        return self._cpu_s / self._cpu_over_s if self._cpu_over_s > 0 else None

    def result(self) -> dict[str, Any]:
        """The raw result of this process; call after close()."""
        first_ns = self._windows[0].begins_ns if self._windows else 0
        digits = None
        if self._labels is not None:
            digits = {
                "scored": self._scored,
                "correct": self._correct,
                "expected_correct": None if self._wrong is None else self._expected_correct,
            }
        return {
            "process": self._process,
            "protocol": self._protocol,
            "measured_s": round(self.measured_s, 6),
            "started": self._started,
            "requests": self.requests,
            "warm_up_requests": self.warm_up_requests,
            "warm_up_failures": dict(self.warm_up_failures),
            "failures": dict(self.failures),
            "digits": digits,
            "cpu_s": round(self._cpu_s, 6),
            "cpu_over_s": round(self._cpu_over_s, 6),
            "series": {name: series.encode() for name, series in self.series.items()},
            "blocks": [
                {
                    "number": number,
                    "begin_s": round((window.begins_ns - first_ns) / NS_PER_S, 6),
                    "length_s": round((window.ends_ns - window.begins_ns) / NS_PER_S, 6),
                    "series": self._blocks[number].encode(),
                }
                for window in self._windows
                if (number := window.number) is not None
            ],
            "rows": self._rows,
            "rows_of": self._timed,
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
