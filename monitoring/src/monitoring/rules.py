"""Recording and alerting rules of Prometheus, as values. Pure.

Names follow level:metric:operations. Percentiles are recorded per hop, so that a panel, an alert
and a person ask the same question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from monitoring import gateway_metrics
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
    """A place where a request's time is measured.

    Attributes:
        histogram: Its name.
        labels: By what its percentiles are told apart: the caller's side knows no variation.
        match: Which of its series.
        protocol: The label that says what `protocol` says elsewhere.
        unit_s: Of its bounds.
    """

    histogram: str
    labels: tuple[str, ...] = ("protocol", "variation")
    match: str = ""
    protocol: str = "protocol"
    unit_s: float = 1.0

    def rates(self, by: tuple[str, ...], match: str = "") -> str:
        """What its buckets add in a second, of those series that `match`."""
        both = ", ".join(filter(None, (self.match, match)))
        rates = f"rate({self.histogram}_bucket{f'{{{both}}}' if both else ''}[{WINDOW}])"
        if self.protocol != "protocol":
            rates = f'label_replace({rates}, "protocol", "$1", "{self.protocol}", "(.*)")'
        return f"sum by ({', '.join(('le', *by))}) ({rates})"


HOPS = {
    "client": Hop(LOADTEST_DURATION, ("protocol",)),
    "gateway": Hop(
        gateway_metrics.CALLERS_TIME,
        ("protocol",),
        f'{gateway_metrics.PREFIX}=~"rest|grpc"',
        gateway_metrics.PREFIX,
        1e-3,
    ),
    "server": Hop(REQUEST_DURATION),
    "queue": Hop(QUEUE_DURATION),
    "compute": Hop(COMPUTE_DURATION),
}

# The objective that the alerts watch: so many predictions answered, and so fast.
SLO_ERRORS = 0.001
SLO_P99_S = 0.05
# Of a month's allowed errors, a burn rate of 14.4 takes 2 % in an hour, one of 6 takes 5 % in six.
# Source: Google, "The Site Reliability Workbook", chapter 5.
BURNS = (("1h", "5m", 14.4, "page"), ("6h", "30m", 6.0, "ticket"))
# Whose end is the caller's doing.
CALLERS_FAULT = "4..|INVALID_ARGUMENT|UNAUTHENTICATED|PERMISSION_DENIED|NOT_FOUND|CANCELLED"
OVERLOADED = "429|RESOURCE_EXHAUSTED"
GENERATOR_BUSY = 0.85  # as loadtest/judgement.py
GENERATOR_LAG_S = 0.001


def percentile(hop: str, name: str) -> str:
    """The name under which a hop's percentile is recorded."""
    return f"hop:{hop}_seconds:{name}"


def errors(window: str) -> str:
    """The name under which the share of failed predictions over a window is recorded."""
    return f"protocol:errors:ratio_{window}"


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
    found = []
    for hop, measured in HOPS.items():
        rates = measured.rates(measured.labels)
        scale = "" if measured.unit_s == 1 else f" * {measured.unit_s:g}"
        found += [
            {
                "record": percentile(hop, name),
                "expr": f"histogram_quantile({quantile}, {rates}){scale}",
            }
            for name, quantile in QUANTILES.items()
        ]
    return found


def _error_ratios() -> list[Json]:
    total = f"{REQUESTS}_total"
    ours = f'{total}{{code!~"200|OK|{CALLERS_FAULT}"}}'
    return [
        {
            "record": errors(window),
            "expr": (
                f"(sum by (protocol) (rate({ours}[{window}])) "
                f"or 0 * sum by (protocol) (rate({total}[{window}]))) "
                f"/ sum by (protocol) (rate({total}[{window}]))"
            ),
        }
        for window in sorted({window for long, short, *_ in BURNS for window in (long, short)})
    ]


def _alerts() -> list[Json]:
    burning = [
        _alert(
            f"ErrorBudgetBurns{long.upper()}",
            " and ".join(f"{errors(one)} > {burn * SLO_ERRORS:.4g}" for one in (long, short)),
            "2m",
            severity,
            f"{{{{ $labels.protocol }}}} fails {{{{ $value | humanizePercentage }}}} of its "
            f"predictions over {long}",
            "Look at the codes in 'Prediction serving', then at `make logs`.",
        )
        for long, short, burn, severity in BURNS
    ]
    return [
        *burning,
        _alert(
            "SlowPredictions",
            f"{percentile('server', 'p99')} > {SLO_P99_S:g}",
            "5m",
            "ticket",
            "{{ $labels.protocol }} {{ $labels.variation }}: one prediction in a hundred takes "
            "over {{ $value | humanizeDuration }} in the server",
            "If its queue is as slow, it needs more replicas; else look at compute.",
        ),
        _alert(
            "QueueFull",
            f'sum by (protocol, variation) (rate({REQUESTS}_total{{code=~"{OVERLOADED}"}}[1m]))'
            " > 0",
            "1m",
            "ticket",
            '{{ $labels.protocol }} {{ $labels.variation }} refuses {{ $value | printf "%.3g" }} '
            "predictions a second: its queue is full",
            "start-microservice with more --replicas.",
        ),
        _alert(
            "NotScraped",
            'up{job!="loadtest"} == 0',
            "30s",
            "page",
            "{{ $labels.job }} at {{ $labels.instance }} does not answer",
            "`make status` says what runs.",
        ),
        # A server that discovery no longer finds has no `up` that could be 0.
        _alert(
            "ServersGone",
            f"group by (protocol) (last_over_time({START_TIME}[1h])) "
            f"unless group by (protocol) ({START_TIME})",
            "30s",
            "page",
            "no server of {{ $labels.protocol }} is left of those that were there within the hour",
            "`make status` says what runs.",
        ),
        _alert(
            "GatewayGone",
            'absent(up{job="gateway"})',
            "30s",
            "page",
            "Prometheus finds no gateway to scrape",
            "`make status` says what runs.",
        ),
        _alert(
            "GeneratorIsTheBottleneck",
            f"{LOADTEST_BUSY} > {GENERATOR_BUSY} "
            f"or ({LOADTEST_LAG} > {GENERATOR_LAG_S} and on (protocol) {LOADTEST_BUSY} < 0.5)",
            "10s",
            "info",
            "the load test over {{ $labels.protocol }} measures its own load generator",
            "Use more workers (WORKERS=), or a lower rate: the run will be INVALID.",
        ),
        _alert(
            "LoadTestFails",
            f'rate({LOADTEST_REQUESTS}_total{{outcome="failure"}}[30s]) > 0',
            "10s",
            "info",
            "requests of the load test over {{ $labels.protocol }} fail",
            "Its report names the reasons.",
        ),
    ]


def _alert(
    name: str, expression: str, lasting: str, severity: str, summary: str, next_step: str
) -> Json:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "next_step": next_step},
    }
