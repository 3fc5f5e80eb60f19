"""What one Locust process measures: a window of time, and what the requests within it took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from loadtest.answers import ServerTiming
from loadtest.series import Series

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Outcome:
    """One request as it ended.

    Attributes:
        started_ns: By the clock of `time.perf_counter_ns`, just before the call.
        ended_ns: When the answer had been read and parsed.
        failure: A short reason; None of a right answer.
        server: What the server says it spent.
        told: The digit that the answer tells.
    """

    started_ns: int
    ended_ns: int
    failure: str | None = None
    server: ServerTiming | None = None
    told: int | None = None

    @property
    def latency_us(self) -> float:
        return (self.ended_ns - self.started_ns) / 1000


class Recorder:
    """Counts the requests that start while the window is open; before it they are warm-up."""

    def __init__(
        self,
        process: str,
        protocol: str,
        labels: tuple[int, ...] | None,
        wrong: frozenset[int] | None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Make one whose window is not open yet.

        Args:
            process: The name of this process in the run.
            protocol: `rest` or `grpc`.
            labels: The digit that each instance shows; None where it shows none.
            wrong: The instances that the model is known to tell wrong; None if that is not known.
            clock: Nanoseconds, as Outcome's.
        """
        self._process = process
        self._protocol = protocol
        self._labels = labels
        self._wrong = wrong
        self._clock = clock
        self._opened_ns: int | None = None
        self._closes_ns: int | None = None
        self._cpu_s = 0.0
        self._started = _now()
        self.requests = 0
        self.warm_up_requests = 0
        self.failures: Counter[str] = Counter()
        self._scored = 0
        self._correct = 0
        self._expected_correct = 0
        self.client = Series()
        self._server = {"total": Series(), "queue": Series(), "compute": Series()}

    def open(self, duration_s: float) -> None:
        """Measure the requests that start from now on, for `duration_s`."""
        self._started = _now()
        self._cpu_s = time.process_time()
        self._opened_ns = self._clock()
        self._closes_ns = self._opened_ns + round(duration_s * NS_PER_S)

    def close(self) -> None:
        """Measure no request that starts from now on. The window may have run out before."""
        if self._opened_ns is not None and self._closes_ns is not None:
            self._cpu_s = time.process_time() - self._cpu_s
            self._closes_ns = min(self._closes_ns, self._clock())

    @property
    def measured_s(self) -> float:
        """How long the window has been open."""
        if self._opened_ns is None or self._closes_ns is None:
            return 0.0
        return (min(self._clock(), self._closes_ns) - self._opened_ns) / NS_PER_S

    @property
    def over(self) -> bool:
        return self._closes_ns is not None and self._clock() >= self._closes_ns

    def record(self, outcome: Outcome, instance: int) -> None:
        """Count a request for the instance of that index."""
        if self._opened_ns is None or outcome.started_ns < self._opened_ns:
            self.warm_up_requests += 1
            return
        if self._closes_ns is not None and outcome.started_ns >= self._closes_ns:
            return
        self.requests += 1
        if outcome.failure is not None:
            self.failures[outcome.failure] += 1
            return
        self.client.record(outcome.latency_us)
        if outcome.server is not None:
            self._server["total"].record(outcome.server.total_ms * 1000)
            self._server["queue"].record(outcome.server.queue_ms * 1000)
            self._server["compute"].record(outcome.server.compute_ms * 1000)
        if self._labels is not None and outcome.told is not None:
            self._scored += 1
            self._correct += outcome.told == self._labels[instance]
            self._expected_correct += self._wrong is None or instance not in self._wrong

    def progress(self) -> dict[str, Any]:
        """So far, for a display."""
        p50, p99 = self.client.percentiles_ms([50, 99])
        return {
            "measured_s": round(self.measured_s, 3),
            "requests": self.requests,
            "warm_up_requests": self.warm_up_requests,
            "failures": self.failures.total(),
            "p50_ms": p50,
            "p99_ms": p99,
        }

    def result(self) -> dict[str, Any]:
        """The raw result of this process, once the window is closed."""
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
            "failures": dict(self.failures),
            "digits": digits,
            "cpu_s": round(self._cpu_s, 6) if self._opened_ns is not None else 0.0,
            "series": {
                "client": self.client.encode(),
                **{f"server_{name}": series.encode() for name, series in self._server.items()},
            },
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
