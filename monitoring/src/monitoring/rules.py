"""Prometheus recording and alerting rules, as values. Pure.

Names follow level:metric:operations. Percentiles are recorded per hop, so that panels, alerts and
people query the same series.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from monitoring import gateway_metrics, limits
from monitoring.metrics import (
    COMPUTE_DURATION,
    LOADTEST_BUSY,
    LOADTEST_DURATION,
    LOADTEST_LAG,
    LOADTEST_REQUESTS,
    QUEUE_DURATION,
    REQUEST_DURATION,
    REQUESTS,
    START_TIME,
)

Json: TypeAlias = dict[str, Any]

WINDOW = "1m"
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True)
class Hop:
    """A place where the latency of a request is measured.

    Attributes:
        histogram: The metric's name.
        labels: Labels of the recorded percentiles; client and gateway have no variation.
        match: Label matchers of its series.
        protocol: The label that holds the protocol.
        unit_s: The unit of its bucket bounds, in seconds.
    """

    histogram: str
    labels: tuple[str, ...] = ("protocol", "variation")
    match: str = ""
    protocol: str = "protocol"
    unit_s: float = 1.0

    def bucket_rates(self, by: tuple[str, ...], match: str = "") -> str:
        """Query the per-second increase of each bucket, of the series that `match`."""
        matchers = ", ".join(filter(None, (self.match, match)))
        rates = f"rate({self.histogram}_bucket{f'{{{matchers}}}' if matchers else ''}[{WINDOW}])"
        if self.protocol != "protocol":
            rates = f'label_replace({rates}, "protocol", "$1", "{self.protocol}", "(.*)")'
        return f"sum by ({', '.join(('le', *by))}) ({rates})"

    def quantile(self, q: float, by: tuple[str, ...], match: str = "") -> str:
        """Query a quantile in seconds."""
        scale = "" if self.unit_s == 1 else f" * {self.unit_s:g}"
        return f"histogram_quantile({q}, {self.bucket_rates(by, match)}){scale}"


HOPS = {
    "client": Hop(LOADTEST_DURATION, ("protocol",)),
    "gateway": Hop(
        gateway_metrics.DOWNSTREAM_DURATION,
        ("protocol",),
        f'{gateway_metrics.PREFIX}=~"rest|grpc"',
        gateway_metrics.PREFIX,
        1e-3,
    ),
    "server": Hop(REQUEST_DURATION),
    "queue": Hop(QUEUE_DURATION),
    "compute": Hop(COMPUTE_DURATION),
}

# Long window, short window, burn rate, severity. A burn rate of 14.4 spends 2 % of a month's error
# budget in an hour, one of 6 spends 5 % in six hours.
# Source: Google, "The Site Reliability Workbook", chapter 5.
BURN_RATES = (("1h", "5m", 14.4, "page"), ("6h", "30m", 6.0, "ticket"))
SUCCESS = "200|OK"
CLIENT_ERRORS = "4..|INVALID_ARGUMENT|UNAUTHENTICATED|PERMISSION_DENIED|NOT_FOUND|CANCELLED"
OVERLOADED = "429|RESOURCE_EXHAUSTED"
STATUS = "Run `make status`."


def percentile(hop: str, name: str) -> str:
    """The recorded series of a hop's percentile."""
    return f"hop:{hop}_seconds:{name}"


def recorded_error_ratio(window: str) -> str:
    """The recorded series of the server error ratio over a window."""
    return f"protocol:errors:ratio_{window}"


def error_ratio(window: str, by: str = "protocol", match: str = "") -> str:
    """Query the server error ratio: 0, not absent, where nothing fails."""
    total = f"{REQUESTS}_total"
    failed = ", ".join(filter(None, (f'code!~"{SUCCESS}|{CLIENT_ERRORS}"', match)))
    every = f"sum by ({by}) (rate({total}{f'{{{match}}}' if match else ''}[{window}]))"
    return f"(sum by ({by}) (rate({total}{{{failed}}}[{window}])) or 0 * {every}) / {every}"


def generator_saturated() -> str:
    """Query the load generators whose run will be invalid."""
    return (
        f"{LOADTEST_BUSY} > {limits.GENERATOR_CPU} "
        f"or {LOADTEST_LAG} > {limits.DISPATCH_LAG_P99_LOADED_S} "
        f"or ({LOADTEST_LAG} > {limits.DISPATCH_LAG_P99_S} "
        f"and on (protocol) {LOADTEST_BUSY} <= {limits.LIGHT_CPU})"
    )


def rules() -> Json:
    """The whole rule file."""
    return {
        "groups": [
            {"name": "percentiles", "interval": "5s", "rules": _percentiles()},
            {"name": "errors", "interval": "15s", "rules": _error_ratios()},
            {"name": "alerts", "interval": "15s", "rules": _alerts()},
        ]
    }


def _percentiles() -> list[Json]:
    return [
        {"record": percentile(hop, name), "expr": measured.quantile(q, measured.labels)}
        for hop, measured in HOPS.items()
        for name, q in QUANTILES.items()
    ]


def _error_ratios() -> list[Json]:
    windows = sorted({window for long, short, *_ in BURN_RATES for window in (long, short)})
    return [
        {"record": recorded_error_ratio(window), "expr": error_ratio(window)} for window in windows
    ]


def _alerts() -> list[Json]:
    burning = [
        _alert(
            f"ErrorBudgetBurns{long.upper()}",
            " and ".join(
                f"{recorded_error_ratio(window)} > {burn_rate * limits.SLO_ERROR_RATIO:.4g}"
                for window in (long, short)
            ),
            "2m",
            severity,
            "{{ $labels.protocol }}: error ratio over "
            f"{long} is {{{{ $value | humanizePercentage }}}}, a burn rate above {burn_rate:g}",
            "Check 'Requests by status code' in the dashboard 'Prediction serving', "
            "then run `make logs`.",
        )
        for long, short, burn_rate, severity in BURN_RATES
    ]
    return [
        *burning,
        _alert(
            "SlowPredictions",
            f"{percentile('server', 'p99')} > {limits.SLO_P99_S:g}",
            "5m",
            "ticket",
            "{{ $labels.protocol }} {{ $labels.variation }}: p99 server latency is "
            f"{{{{ $value | humanizeDuration }}}}, expected at most {limits.SLO_P99_S * 1000:g}ms",
            "Add replicas if the queue time is high; otherwise check the inference time.",
        ),
        _alert(
            "QueueFull",
            f'sum by (protocol, variation) (rate({REQUESTS}_total{{code=~"{OVERLOADED}"}}[1m]))'
            " > 0",
            "1m",
            "ticket",
            "{{ $labels.protocol }} {{ $labels.variation }}: queue is full, "
            '{{ $value | printf "%.3g" }} requests per second are rejected',
            "Add replicas: start-microservice --replicas.",
        ),
        _alert(
            "NotScraped",
            'up{job!="loadtest"} == 0',
            "30s",
            "page",
            "{{ $labels.job }} target {{ $labels.instance }} is down",
            STATUS,
        ),
        # A server that discovery no longer finds has no `up` that could be 0.
        _alert(
            "ServersGone",
            f"group by (protocol) (last_over_time({START_TIME}[1h])) "
            f"unless group by (protocol) ({START_TIME})",
            "30s",
            "page",
            "{{ $labels.protocol }}: no server is left, at least one was up within the last hour",
            STATUS,
        ),
        _alert(
            "GatewayGone",
            'absent(up{job="gateway"})',
            "30s",
            "page",
            "Prometheus has no gateway target",
            STATUS,
        ),
        _alert(
            "GeneratorIsTheBottleneck",
            generator_saturated(),
            "10s",
            "info",
            "{{ $labels.protocol }}: the load generator is saturated, the run will be INVALID",
            "Use more workers (WORKERS=) or a lower rate.",
        ),
        _alert(
            "LoadTestFails",
            f'rate({LOADTEST_REQUESTS}_total{{outcome="failure"}}[30s]) > 0',
            "10s",
            "info",
            "{{ $labels.protocol }}: load test requests fail",
            "Read the failure reasons in the load test's report.",
        ),
    ]


def _alert(
    name: str, expression: str, pending: str, severity: str, summary: str, description: str
) -> Json:
    return {
        "alert": name,
        "expr": expression,
        "for": pending,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description},
    }
