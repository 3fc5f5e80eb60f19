"""The Grafana dashboards as code. Pure; their JSON is generated and committed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from string import Template

from grafana_foundation_sdk.builders import dashboard, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    Panel,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import Dataquery

from monitoring import gateway_metrics as envoy
from monitoring import limits, rules
from monitoring.metrics import (
    BATCH_SIZE,
    IN_FLIGHT,
    LOADTEST_BUSY,
    LOADTEST_LAG,
    LOADTEST_OFFERED,
    LOADTEST_PART,
    LOADTEST_REQUESTS,
    LOADTEST_RUNNING,
    MODEL_INFO,
    PROCESS_CPU,
    REQUESTS,
    RESIDENT_MEMORY,
    START_TIME,
)
from monitoring.panels import (
    BYTES,
    CONCURRENCY,
    ERRORS,
    FULL,
    HALF,
    LATENCY,
    MILLISECONDS,
    NEUTRAL,
    NUMBER,
    PER_SECOND,
    RATIO,
    SECONDS,
    SOURCE,
    THIRD,
    TRAFFIC,
    VALIDITY,
    heatmap_panel,
    stat_panel,
    stat_row,
    timeseries_panel,
)

TITLES = {
    "prediction-serving": "Prediction serving",
    "load-test": "Load test",
    "gateway": "Gateway",
}
ALL = ".*"  # the value of a variable when All is selected

# Label matchers by template variable.
PROTOCOL = 'protocol=~"$protocol"'
VARIATION = f'{PROTOCOL}, variation=~"$variation"'
LISTENER = f'{envoy.PREFIX}=~"rest|grpc", {envoy.PREFIX}=~"$protocol"'
UPSTREAM = (
    f'{envoy.CLUSTER}=~"(rest|grpc)_.+", {envoy.CLUSTER}=~"${{protocol}}_.+", '
    f'{envoy.CLUSTER}=~"$cluster"'
)


@dataclass(frozen=True)
class Annotation:
    """A region on every panel of every dashboard: the measured part of a load test."""

    name: str
    color: str
    expr: str


def _annotation(protocol: str, name: str, color: str) -> Annotation:
    # $__interval: over half a day Grafana's steps are longer than a run of a minute.
    running = f'{LOADTEST_RUNNING}{{protocol="{protocol}", phase="measuring"}}'
    expr = f"max(max_over_time({running}[$__interval])) > 0"
    return Annotation(f"{name} load test", color, expr)


ANNOTATIONS = (_annotation("rest", "REST", "purple"), _annotation("grpc", "gRPC", "orange"))


def rate(metric: str, by: str = "protocol", match: str = PROTOCOL) -> str:
    """Query a counter's per-second increase."""
    return f"sum by ({by}) (rate({metric}{{{match}}}[$__rate_interval]))"


def latency_by_hop(*names: str) -> tuple[timeseries.Panel, ...]:
    """A panel for each percentile, with a series for each selected hop and variation."""
    panels = []
    for name in names:
        series = f'{{__name__=~"{rules.percentile("${hop}", name)}", {PROTOCOL}'
        # The empty alternative keeps the hops that have no variation: client and gateway.
        series = f'{series}, variation=~"$variation|"}}'
        by_hop = f'label_replace({series}, "hop", "$1", "__name__", "hop:(.*)_seconds:.*")'
        panels.append(
            timeseries_panel(
                f"{name.replace('_', '.')} latency by hop",
                SECONDS,
                "Client latency includes the gateway's, gateway latency includes the server's. The "
                "gateway's resolution is 1 ms. If it rises, find the innermost hop that rises "
                "with it.",
                (by_hop, "{{hop}} {{protocol}} {{variation}}"),
            )
        )
    return tuple(panels)


def prediction_serving() -> Dashboard:
    """The model servers: requests, latency, saturation, model."""
    total = f"{REQUESTS}_total"
    by, legend = "protocol, variation", "{{protocol}} {{variation}}"
    batch_size = (
        f"{rate(f'{BATCH_SIZE}_sum', by, VARIATION)} / {rate(f'{BATCH_SIZE}_count', by, VARIATION)}"
    )
    cpu = f"{PROCESS_CPU}_total"
    in_flight = f"sum by (protocol) ({IN_FLIGHT}{{{PROTOCOL}}})"
    overview = stat_row(
        stat_panel(
            "Request rate",
            PER_SECOND,
            TRAFFIC,
            "Completed requests per second. Grey: no traffic; check the gateway and the clients.",
            (rate(total, match=VARIATION), "{{protocol}}"),
        ),
        stat_panel(
            "Error ratio",
            RATIO,
            ERRORS,
            "Share of requests with a server error over 5 minutes; client errors do not count. "
            f"Yellow: above the SLO of {limits.SLO_ERROR_RATIO:.1%}. Red: a burn rate that pages; "
            "check the status codes.",
            (rules.error_ratio("5m", match=VARIATION), "{{protocol}}"),
        ),
        stat_panel(
            "p99 latency",
            SECONDS,
            LATENCY,
            f"p99 server latency. Red: above the SLO of {limits.SLO_P99_S * 1000:g} ms; compare "
            "queue time and inference time below.",
            (rules.HOPS["server"].quantile(0.99, ("protocol",), VARIATION), "{{protocol}}"),
        ),
        stat_panel(
            "In-flight requests",
            NUMBER,
            CONCURRENCY,
            "Requests that the servers have received and not completed. Red: as many as the queue "
            "of one worker holds by default; add replicas before requests are rejected.",
            (in_flight, "{{protocol}}"),
        ),
    )
    requests = (
        timeseries_panel(
            "Request rate by variation",
            PER_SECOND,
            "Completed requests per second. If the shares differ from the configured ratios, check "
            "the variations of each client.",
            (rate(total, by, VARIATION), legend),
        ),
        timeseries_panel(
            "Requests by status code",
            PER_SECOND,
            "HTTP status or gRPC status code. 429 and RESOURCE_EXHAUSTED: the queue is full, add "
            "replicas. 5xx, INTERNAL and UNAVAILABLE: read the server log.",
            (rate(total, "protocol, code", VARIATION), "{{protocol}} {{code}}"),
        ),
        timeseries_panel(
            "Error ratio by variation",
            RATIO,
            "Share of requests with a server error over 5 minutes. The dashed line is the SLO. If "
            "one variation is above it, set its ratio to 0 and read its log.",
            (rules.error_ratio("5m", by, VARIATION), legend),
            limit=limits.SLO_ERROR_RATIO,
        ),
        timeseries_panel(
            "Requests by client",
            PER_SECOND,
            "Completed requests per second. If the total rises, find the client that causes it. "
            "The client 'direct' is every request that bypasses the gateway.",
            (rate(total, "client, protocol", VARIATION), "{{client}} {{protocol}}"),
        ),
    )
    latency = (
        *latency_by_hop("p50", "p90", "p99", "p99_9"),
        heatmap_panel(
            "Server latency",
            "server",
            "From receiving a request to writing its response. Two bands: compare the variations.",
            THIRD,
        ),
        heatmap_panel(
            "Queue time",
            "queue",
            "Time between arrival and the start of inference. If it rises, add replicas.",
            THIRD,
        ),
        heatmap_panel(
            "Inference (compute) time",
            "compute",
            "Time in the inference engine for the whole batch. If it rises, check batch size and "
            "CPU usage.",
            THIRD,
        ),
    )
    saturation = (
        timeseries_panel(
            "In-flight requests by protocol",
            NUMBER,
            "Requests received and not completed. If it grows at a constant request rate, the "
            "servers are saturated: add replicas.",
            (in_flight, "{{protocol}}"),
        ),
        timeseries_panel(
            "Batch size",
            NUMBER,
            "Mean number of instances per inference. Near 1: requests do not queue. If it stays at "
            "the maximum, the servers are saturated.",
            (batch_size, legend),
        ),
        timeseries_panel(
            "CPU usage",
            NUMBER,
            "CPU of all server processes. If it reaches the number of cores, add machines.",
            (rate(cpu), "{{protocol}}"),
            width=THIRD,
            axis="cores",
        ),
        timeseries_panel(
            "CPU time per request",
            SECONDS,
            "Mean CPU time, health checks and scrapes included. If it rises after a release, "
            "profile that release.",
            (f"{rate(cpu)} / {rate(total)}", "{{protocol}}"),
            width=THIRD,
        ),
        timeseries_panel(
            "Resident memory",
            BYTES,
            "Memory of all processes of a server. If it grows without bound, restart the server "
            "and report a leak.",
            (f"{RESIDENT_MEMORY}{{{PROTOCOL}}}", "{{protocol}} {{instance}}"),
            width=THIRD,
        ),
    )
    model = (
        stat_panel(
            "Servers by model version",
            NUMBER,
            NEUTRAL,
            "Number of servers of each model version. If a version has servers that no variation "
            "should use, redeploy.",
            (
                f"count by (protocol, model, version) ({MODEL_INFO}{{{PROTOCOL}}})",
                "{{protocol}} {{model}} {{version}}",
            ),
        ).span(HALF),
        stat_panel(
            "Uptime",
            SECONDS,
            NEUTRAL,
            "Time since the oldest process of the server loaded the model. If it restarts at 0 "
            "unexpectedly, read the server log.",
            (f"time() - {START_TIME}{{{PROTOCOL}}}", "{{protocol}} {{instance}}"),
        ).span(HALF),
    )
    return _dashboard(
        "prediction-serving",
        {
            "Overview": overview,
            "Requests": requests,
            "Latency": latency,
            "Saturation": saturation,
            "Model": model,
        },
    )


def load_test() -> Dashboard:
    """A running load test: client and server latency, load, and the generator itself."""
    done = f"{LOADTEST_REQUESTS}_total"
    error_ratio = f"{rate(done, match=_outcome('failure'))} / {rate(done)}"
    valid = (
        f"1 - group by (protocol) ({rules.generator_saturated()}) "
        f"or group by (protocol) ({LOADTEST_BUSY})"
    )
    overview = stat_row(
        stat_panel(
            "Request rate",
            PER_SECOND,
            TRAFFIC,
            "Completed requests per second of the load test. Grey: no load test is running.",
            (rate(done), "{{protocol}}"),
        ),
        stat_panel(
            "Error ratio",
            RATIO,
            ERRORS,
            "Share of requests that fail. Red: read the failure reasons in the report.",
            (error_ratio, "{{protocol}}"),
        ),
        stat_panel(
            "p99 latency",
            SECONDS,
            LATENCY,
            "p99 client latency. Red: above the SLO of the server latency; compare the hops below.",
            (f"{rules.percentile('client', 'p99')}{{{PROTOCOL}}}", "{{protocol}}"),
        ),
        stat_panel(
            "In-flight requests",
            NUMBER,
            CONCURRENCY,
            "Requests that the servers have received and not completed. Red: as many as the queue "
            "of one worker holds by default; lower the rate or add replicas.",
            (f"sum by (protocol) ({IN_FLIGHT}{{{PROTOCOL}}})", "{{protocol}}"),
        ),
        stat_panel(
            "Generator valid",
            NUMBER,
            VALIDITY,
            "Whether CPU utilization and dispatch lag of the load generator are within limits. "
            "Red: the run is invalid; use more workers or a lower rate.",
            (f"({valid}) and on (protocol) {LOADTEST_BUSY}{{{PROTOCOL}}}", "{{protocol}}"),
            texts=True,
        ),
    )
    latency = (
        *latency_by_hop("p50", "p90", "p99", "p99_9"),
        timeseries_panel(
            "Latency breakdown",
            RATIO,
            "Share of the mean client latency by component. If latency rises, start with the "
            "largest component.",
            *((expr, f"{{{{protocol}}}} {name}") for name, expr in _components().items()),
            width=FULL,
            stacked=True,
        ),
        heatmap_panel(
            "Client latency",
            "client",
            "From sending a request (open loop: from its scheduled time) to its response. If it "
            "has a band that server latency lacks, check the gateway.",
        ),
        heatmap_panel(
            "Server latency",
            "server",
            "From receiving a request to writing its response. Two bands: compare the variations.",
        ),
    )
    load = (
        timeseries_panel(
            "Offered and achieved request rate",
            PER_SECOND,
            "Scheduled arrivals and completed requests. If achieved stays below offered, servers "
            "or generator are saturated. A closed loop has no offered rate.",
            (f"{LOADTEST_OFFERED}{{{PROTOCOL}}}", "{{protocol}} offered"),
            (rate(done), "{{protocol}} achieved"),
        ),
        timeseries_panel(
            "Failed requests",
            PER_SECOND,
            "Failed requests per second. If above 0, read the failure reasons in the report.",
            (rate(done, match=_outcome("failure")), "{{protocol}}"),
        ),
    )
    generator = (
        timeseries_panel(
            "Generator CPU utilization",
            RATIO,
            "Share of one core that the busiest generator process uses. Above the dashed limit "
            "the run is invalid; use more workers.",
            (f"{LOADTEST_BUSY}{{{PROTOCOL}}}", "{{protocol}}"),
            limit=limits.GENERATOR_CPU,
        ),
        timeseries_panel(
            "Dispatch lag",
            SECONDS,
            "p99 delay between scheduled and actual dispatch in an open loop. Above the dashed "
            "limit the run is invalid; remove other work from the machine. If the generator's CPU "
            f"utilization is over {limits.LIGHT_CPU:.0%}, the limit is "
            f"{limits.DISPATCH_LAG_P99_LOADED_S * 1000:g} ms.",
            (f"{LOADTEST_LAG}{{{PROTOCOL}}}", "{{protocol}} p99"),
            limit=limits.DISPATCH_LAG_P99_S,
        ),
    )
    return _dashboard(
        "load-test",
        {
            "Overview": overview,
            "Latency": latency,
            "Load": load,
            "Load generator": generator,
        },
    )


def gateway() -> Dashboard:
    """Envoy: downstream requests, upstream requests, memory."""
    listener = f"{{{{{envoy.PREFIX}}}}}"
    cluster = f"{{{{{envoy.CLUSTER}}}}}"
    requests = rate(envoy.DOWNSTREAM_REQUESTS, envoy.PREFIX, LISTENER)
    server_errors = f'{LISTENER}, {envoy.CODE_CLASS}="5"'
    errors = rate(envoy.DOWNSTREAM_REQUESTS, envoy.PREFIX, server_errors)
    upstream_buckets = rate(f"{envoy.UPSTREAM_DURATION}_bucket", f"le, {envoy.CLUSTER}", UPSTREAM)
    overview = stat_row(
        stat_panel(
            "Request rate",
            PER_SECOND,
            TRAFFIC,
            "Completed downstream requests per second. Grey: no traffic; check the clients.",
            (requests, listener),
        ),
        stat_panel(
            "Error ratio",
            RATIO,
            ERRORS,
            "Share of 5xx responses. Envoy counts gRPC errors as 200; 'Prediction serving' shows "
            "them. Red: check upstream timeouts and circuit-breaker overflows.",
            (f"{errors} / {requests}", listener),
        ),
        stat_panel(
            "p99 latency",
            SECONDS,
            LATENCY,
            "p99 downstream latency, resolution 1 ms. Red: above the SLO of the server latency; "
            "compare the hops below.",
            (f"{rules.percentile('gateway', 'p99')}{{{PROTOCOL}}}", "{{protocol}}"),
        ),
        stat_panel(
            "In-flight requests",
            NUMBER,
            CONCURRENCY,
            "Active downstream requests. Red: as many as the queue of one worker holds by "
            "default; check the servers' queue time.",
            (f"sum by ({envoy.PREFIX}) ({envoy.DOWNSTREAM_IN_FLIGHT}{{{LISTENER}}})", listener),
        ),
    )
    downstream = (
        timeseries_panel(
            "Requests by response class",
            PER_SECOND,
            "Downstream responses by status class. 4xx: check keys and request bodies. 5xx: check "
            "the upstream.",
            (
                rate(
                    envoy.DOWNSTREAM_REQUESTS,
                    f"{envoy.PREFIX}, {envoy.CODE_CLASS}",
                    LISTENER,
                ),
                f"{listener} {{{{{envoy.CODE_CLASS}}}}}xx",
            ),
        ),
        timeseries_panel(
            "Downstream connections",
            NUMBER,
            "Active client connections. If it grows with a constant request rate, clients do not "
            "reuse connections.",
            (f"{envoy.DOWNSTREAM_CONNECTIONS}{{{LISTENER}}}", listener),
        ),
        *latency_by_hop("p50", "p99"),
        heatmap_panel(
            "Gateway latency",
            "gateway",
            "From receiving a request to sending its response, resolution 1 ms. If it has a band "
            "that server latency lacks, check the retries.",
            FULL,
        ),
    )
    upstream = (
        timeseries_panel(
            "Upstream request rate",
            PER_SECOND,
            "Requests per second to each cluster of servers. If one has none, check its "
            "variation's ratio and its servers.",
            (rate(envoy.UPSTREAM_REQUESTS, envoy.CLUSTER, UPSTREAM), cluster),
        ),
        timeseries_panel(
            "p99 upstream latency",
            MILLISECONDS,
            "p99 time from sending a request upstream to the end of its response, resolution 1 ms. "
            "If it is far above the server latency, check the network and the servers' CPU usage.",
            (f"histogram_quantile(0.99, {upstream_buckets})", cluster),
        ),
        *(
            timeseries_panel(
                title,
                PER_SECOND,
                description,
                (rate(metric, envoy.CLUSTER, UPSTREAM), cluster),
                width=THIRD,
            )
            for title, metric, description in (
                (
                    "Retries",
                    envoy.UPSTREAM_RETRIES,
                    "Upstream requests sent again after a failure. If above 0, a server resets "
                    "connections or restarts.",
                ),
                (
                    "Upstream timeouts",
                    envoy.UPSTREAM_TIMEOUTS,
                    "Upstream requests that exceed the route's timeout. If above 0, check the "
                    "servers' queue time.",
                ),
                (
                    "Circuit-breaker overflows",
                    envoy.UPSTREAM_OVERFLOWS,
                    "Requests rejected because the cluster's connections or pending requests are "
                    "at their limit. If above 0, add replicas.",
                ),
            )
        ),
        timeseries_panel(
            "Envoy memory",
            BYTES,
            "Allocated heap. It grows with the number of clients; if it grows otherwise, check "
            "the connections.",
            (envoy.MEMORY, "{{instance}}"),
            width=FULL,
        ),
    )
    return _dashboard(
        "gateway",
        {"Overview": overview, "Downstream": downstream, "Upstream": upstream},
        _variable("cluster", f"label_values({envoy.UPSTREAM_REQUESTS}, {envoy.CLUSTER})").regex(
            "/^(?:rest|grpc)_.+/"
        ),
    )


def to_json(board: Dashboard) -> str:
    """The dashboard as Grafana imports it."""
    return json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def queries(board: Dashboard) -> list[tuple[str, str]]:
    """The title and the expression of every query of every panel."""
    return [
        (panel.title or "", target.expr)
        for panel in board.panels or ()
        if isinstance(panel, Panel)
        for target in panel.targets or ()
        if isinstance(target, Dataquery)
    ]


def interpolate(expr: str, **values: str) -> str:
    """The query that Grafana sends: All where a variable has no value in `values`."""
    names = Template(expr).get_identifiers()
    intervals = {"__interval": "1m", "__rate_interval": "30s"}
    return Template(expr).safe_substitute({**dict.fromkeys(names, ALL), **intervals, **values})


def _outcome(outcome: str) -> str:
    return f'{PROTOCOL}, outcome="{outcome}"'


def _components() -> dict[str, str]:
    """What client latency consists of, each as a share of it."""

    def part(name: str) -> str:
        return rate(f"{LOADTEST_PART}_total", match=f'{PROTOCOL}, part="{name}"')

    client, gateway_, upstream = part("client"), part("gateway"), part("upstream")
    server, queue, compute = part("server_total"), part("server_queue"), part("server_compute")
    seconds = {
        "inference": compute,
        "queue time": queue,
        "server overhead": f"({server} - {queue} - {compute})",
        "upstream network and scheduling": f"({upstream} - {server})",
        "gateway": gateway_,
        "client and network": f"({client} - {gateway_} - {upstream})",
    }
    return {name: f"{expr} / {client}" for name, expr in seconds.items()}


def _dashboard(
    uid: str, rows: dict[str, tuple[Builder[Panel], ...]], *variables: dashboard.QueryVariable
) -> Dashboard:
    board = (
        dashboard.Dashboard(TITLES[uid])
        .uid(uid)
        .tags(["prediction-services"])
        .refresh("5s")
        .time("now-15m", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus")
        )
        .with_variable(_variable("protocol", f"label_values({START_TIME}, protocol)"))
        .with_variable(_variable("variation", f"label_values({REQUESTS}_total, variation)"))
        .with_variable(
            dashboard.CustomVariable("hop")
            .label("hop")
            .values(",".join(rules.HOPS))
            .include_all(True)
            .all_value(ALL)
            .multi(True)
        )
    )
    for variable in variables:
        board.with_variable(variable)
    for other, title in TITLES.items():
        if other != uid:
            board.link(
                dashboard.DashboardLink(title)
                .type(DashboardLinkType.LINK)
                .icon("dashboard")
                .url(f"/d/{other}")
                .keep_time(True)
                .include_vars(True)
            )
    for annotation in ANNOTATIONS:
        board.annotation(
            dashboard.AnnotationQuery()
            .name(annotation.name)
            .datasource(SOURCE)
            .enable(True)
            .icon_color(annotation.color)
            .expr(annotation.expr)
        )
    for title, panels in rows.items():
        board.with_row(dashboard.Row(title))
        for panel in panels:
            board.with_panel(panel)
    return board.build()


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(ALL)
        .multi(True)
    )


DASHBOARDS = (prediction_serving(), load_test(), gateway())
