"""Grafana's dashboards as typed values: JSON comes of them, and is committed. Pure.

Every query is one that a test can run as it stands, but for `$protocol`, of which `.*` is one
value, and `$__interval`, a duration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from monitoring import gateway_metrics as envoy
from monitoring import rules
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

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
OF_PROTOCOL = '{protocol=~"$protocol"}'
HEIGHT, FULL, HALF, THIRD = 8, 24, 12, 8
WINDOW = "[30s]"

# Units as Grafana names them.
SECONDS, PER_SECOND, SHARE, BYTES, NUMBER = "s", "reqps", "percentunit", "bytes", "short"


@dataclass(frozen=True)
class Query:
    """What is asked, and what a line is called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Graph:
    """Lines over time."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    width: int = HALF
    stacked: bool = False
    description: str = ""


@dataclass(frozen=True)
class Heat:
    """Buckets of a histogram over time."""

    title: str
    expr: str
    width: int = HALF
    description: str = ""


@dataclass(frozen=True)
class Number:
    """One figure for each series, now."""

    title: str
    unit: str
    query: Query
    width: int = THIRD


Panel = Graph | Heat | Number


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Page:
    """One dashboard."""

    uid: str
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Mark:
    """A region on every panel, from where a run starts to be measured to where it ends."""

    name: str
    color: str
    expr: str


def _mark(protocol: str, name: str, color: str) -> Mark:
    # $__interval: Grafana asks for a hundred moments of what is shown, and a run of a minute lies
    # between two of them where that is half a day.
    running = f'{LOADTEST_RUNNING}{{protocol="{protocol}", phase="measuring"}}'
    return Mark(f"load test over {name}", color, f"max(max_over_time({running}[$__interval])) > 0")


MARKS = (_mark("rest", "REST", "purple"), _mark("grpc", "gRPC", "orange"))


def recorded(hop: str, name: str) -> str:
    """A hop's percentile as the rules record it."""
    return rules.percentile(hop, name) + OF_PROTOCOL


def percentiles(hop: str) -> tuple[Query, ...]:
    """A hop's percentiles, a line each."""
    whose = " ".join(f"{{{{{label}}}}}" for label in rules.HOPS[hop].labels)
    return tuple(
        Query(recorded(hop, name), f"{whose} {name.replace('_', '.')}") for name in rules.QUANTILES
    )


def heat(title: str, hop: str, width: int = HALF) -> Heat:
    """A hop's buckets over time, of all variations."""
    measured = rules.HOPS[hop]
    return Heat(title, measured.rates((), f'{measured.protocol}=~"$protocol"'), width)


def rate(metric: str, by: str, match: str = "") -> str:
    """What a counter adds in a second."""
    inner = 'protocol=~"$protocol"' + (f", {match}" if match else "")
    return f"sum by ({by}) (rate({metric}{{{inner}}}{WINDOW}))"


def serving() -> Page:
    """What the servers do."""
    total = f"{REQUESTS}_total"
    per_instance = f"{rate(f'{PROCESS_CPU}_total', 'protocol')} / {rate(total, 'protocol')}"
    return Page(
        "prediction-serving",
        "Prediction serving",
        (
            Row(
                "Requests",
                (
                    Graph(
                        "Rate",
                        PER_SECOND,
                        (Query(rate(total, "protocol, variation"), "{{protocol}} {{variation}}"),),
                    ),
                    Graph(
                        "Rate by end",
                        PER_SECOND,
                        (Query(rate(total, "protocol, code"), "{{protocol}} {{code}}"),),
                    ),
                    Graph(
                        "Errors of ours, of all predictions",
                        SHARE,
                        (Query(rules.errors("5m") + OF_PROTOCOL, "{{protocol}}, 5 minutes"),),
                    ),
                    Graph(
                        "By client",
                        PER_SECOND,
                        (Query(rate(total, "client, protocol"), "{{client}} {{protocol}}"),),
                    ),
                ),
            ),
            Row(
                "Latency",
                (
                    Graph("In the server", SECONDS, percentiles("server")),
                    Graph("Waiting for the model", SECONDS, percentiles("queue")),
                    Graph("The model computes", SECONDS, percentiles("compute")),
                    heat("In the server", "server"),
                    heat("Waiting for the model", "queue"),
                    heat("The model computes", "compute"),
                ),
            ),
            Row(
                "Saturation",
                (
                    Graph(
                        "Being answered now",
                        NUMBER,
                        (Query(f"sum by (protocol) ({IN_FLIGHT}{OF_PROTOCOL})", "{{protocol}}"),),
                    ),
                    Graph(
                        "Instances in an engine call, mean",
                        NUMBER,
                        (
                            Query(
                                f"{rate(f'{BATCH_SIZE}_sum', 'protocol')} / "
                                f"{rate(f'{BATCH_SIZE}_count', 'protocol')}",
                                "{{protocol}}",
                            ),
                        ),
                    ),
                    Graph(
                        "CPU, cores",
                        NUMBER,
                        (Query(rate(f"{PROCESS_CPU}_total", "protocol"), "{{protocol}}"),),
                    ),
                    Graph("CPU of a prediction", SECONDS, (Query(per_instance, "{{protocol}}"),)),
                    Graph(
                        "Resident memory",
                        BYTES,
                        (Query(RESIDENT_MEMORY + OF_PROTOCOL, "{{protocol}} {{instance}}"),),
                    ),
                ),
            ),
            Row(
                "Model",
                (
                    Number(
                        "Served",
                        NUMBER,
                        Query(
                            f"count by (protocol, model, version) ({MODEL_INFO}{OF_PROTOCOL})",
                            "{{protocol}} {{model}} {{version}}",
                        ),
                    ),
                    Number(
                        "Running for",
                        SECONDS,
                        Query(f"time() - {START_TIME}{OF_PROTOCOL}", "{{protocol}} {{instance}}"),
                    ),
                ),
            ),
        ),
    )


def load_test() -> Page:
    """The client's side beside the server's."""
    both = tuple(
        Query(recorded(hop, name), f"{hop}, {{{{protocol}}}} {name}")
        for name in ("p50", "p99")
        for hop in ("client", "server")
    )
    done = f"{LOADTEST_REQUESTS}_total"
    parts = (
        ("the model computes", _part("server_compute")),
        ("waiting for the model", _part("server_queue")),
        (
            "the rest of the server",
            f"{_part('server_total')} - {_part('server_queue')} - {_part('server_compute')}",
        ),
        ("gateway to server and back", f"{_part('upstream')} - {_part('server_total')}"),
        ("gateway", _part("gateway")),
        ("client and network", f"{_part('client')} - {_part('gateway')} - {_part('upstream')}"),
    )
    return Page(
        "load-test",
        "Load test",
        (
            Row(
                "Client and server",
                (
                    Graph("p50 and p99 of both sides", SECONDS, both, FULL),
                    Graph(
                        "Where the time goes, of a second",
                        NUMBER,
                        tuple(Query(expr, f"{{{{protocol}}}} {name}") for name, expr in parts),
                        FULL,
                        stacked=True,
                        description="Seconds of waiting that pass in a second, by what they are "
                        "spent on: their shares are those of a request's time.",
                    ),
                    heat("Client side", "client"),
                    heat("Server side", "server"),
                ),
            ),
            Row(
                "Load",
                (
                    Graph(
                        "Offered and achieved",
                        PER_SECOND,
                        (
                            Query(LOADTEST_OFFERED + OF_PROTOCOL, "{{protocol}} offered"),
                            Query(rate(done, "protocol"), "{{protocol}} achieved"),
                        ),
                    ),
                    Graph(
                        "Failures",
                        PER_SECOND,
                        (Query(rate(done, "protocol", 'outcome="failure"'), "{{protocol}}"),),
                    ),
                ),
            ),
            Row(
                "The load generator itself",
                (
                    Graph(
                        "Of its core (over 85 % a run is invalid)",
                        SHARE,
                        (Query(LOADTEST_BUSY + OF_PROTOCOL, "{{protocol}}"),),
                    ),
                    Graph(
                        "Sent late by, p99 (over 1 ms a calm run is invalid)",
                        SECONDS,
                        (Query(LOADTEST_LAG + OF_PROTOCOL, "{{protocol}}"),),
                    ),
                ),
            ),
        ),
    )


def gateway() -> Page:
    """What Envoy says of itself."""

    def one(metric: str, by: str, match: str = "") -> str:
        return f"sum by ({by}) (rate({metric}{{{match}}}{WINDOW}))"

    listeners = f'{envoy.PREFIX}=~"rest|grpc"'
    servers = f'{envoy.CLUSTER}!~"admin|control_plane|xds_cluster"'
    legend = f"{{{{{envoy.CLUSTER}}}}}"
    times = one(f"{envoy.SERVERS_TIME}_bucket", f"le, {envoy.CLUSTER}", servers)
    return Page(
        "gateway",
        "Gateway",
        (
            Row(
                "Callers",
                (
                    Graph(
                        "Requests by class",
                        PER_SECOND,
                        (
                            Query(
                                one(
                                    envoy.CALLERS_REQUESTS,
                                    f"{envoy.PREFIX}, {envoy.CODE_CLASS}",
                                    listeners,
                                ),
                                f"{{{{{envoy.PREFIX}}}}} {{{{{envoy.CODE_CLASS}}}}}xx",
                            ),
                        ),
                    ),
                    Graph(
                        "Connections",
                        NUMBER,
                        (
                            Query(
                                f"{envoy.CALLERS_CONNECTIONS}{{{listeners}}}",
                                f"{{{{{envoy.PREFIX}}}}}",
                            ),
                        ),
                    ),
                    Graph(
                        "From a request to its answer, in whole milliseconds",
                        SECONDS,
                        percentiles("gateway"),
                    ),
                    heat("From a request to its answer", "gateway"),
                ),
            ),
            Row(
                "Servers",
                (
                    Graph(
                        "Requests",
                        PER_SECOND,
                        (Query(one(envoy.SERVERS_REQUESTS, envoy.CLUSTER, servers), legend),),
                    ),
                    Graph(
                        "p99 of the servers, seen from the gateway",
                        "ms",
                        (Query(f"histogram_quantile(0.99, {times})", legend),),
                    ),
                    Graph(
                        "Tried again, given up, refused for too many",
                        PER_SECOND,
                        tuple(
                            Query(one(metric, envoy.CLUSTER, servers), f"{legend} {said}")
                            for metric, said in (
                                (envoy.SERVERS_TRIED_AGAIN, "again"),
                                (envoy.SERVERS_TIMED_OUT, "timeout"),
                                (envoy.SERVERS_OVERFLOW, "overflow"),
                            )
                        ),
                    ),
                    Graph(
                        "Memory",
                        BYTES,
                        (Query(envoy.MEMORY, "allocated"),),
                    ),
                ),
            ),
        ),
    )


def pages() -> tuple[Page, ...]:
    return (serving(), load_test(), gateway())


def queries(page: Page) -> list[tuple[str, str]]:
    """Every panel's title and query."""
    found = []
    for row in page.rows:
        for panel in row.panels:
            match panel:
                case Graph():
                    found += [(panel.title, query.expr) for query in panel.queries]
                case Heat():
                    found.append((panel.title, panel.expr))
                case Number():
                    found.append((panel.title, panel.query.expr))
    return found


def text(page: Page) -> str:
    """The dashboard as Grafana reads it."""
    built = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .tags(["prediction-services"])
        .refresh("5s")
        .time("now-15m", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus")
        )
        .with_variable(
            dashboard.QueryVariable("protocol")
            .label("protocol")
            .datasource(SOURCE)
            .query(f"label_values({START_TIME}, protocol)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
    )
    for mark in MARKS:
        built = built.annotation(
            dashboard.AnnotationQuery()
            .name(mark.name)
            .datasource(SOURCE)
            .enable(True)
            .icon_color(mark.color)
            .expr(mark.expr)
        )
    for row in page.rows:
        built = built.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            built = built.with_panel(_built(panel))
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _part(part: str) -> str:
    return rate(f"{LOADTEST_PART}_total", "protocol", f'part="{part}"')


def _built(
    panel: Panel,
) -> timeseries.Panel | heatmap.Panel | stat.Panel:
    match panel:
        case Graph():
            graph = (
                timeseries.Panel()
                .title(panel.title)
                .description(panel.description)
                .datasource(SOURCE)
                .unit(panel.unit)
                .min(0)
                .span(panel.width)
                .height(HEIGHT)
                .line_width(1.5)
                .fill_opacity(30 if panel.stacked else 5)
                .legend(
                    common.VizLegendOptions()
                    .display_mode(LegendDisplayMode.TABLE)
                    .placement(LegendPlacement.BOTTOM)
                    .show_legend(True)
                    .calcs(["lastNotNull", "max"])
                )
            )
            if panel.stacked:
                graph = graph.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
            for target in _targets(panel.queries):
                graph = graph.with_target(target)
            return graph
        case Heat():
            target = (
                prometheus.Dataquery()
                .expr(panel.expr)
                .legend_format("{{le}}")
                .format(PromQueryFormat.HEATMAP)
                .ref_id("A")
            )
            return (
                heatmap.Panel()
                .title(panel.title)
                .datasource(SOURCE)
                .calculate(False)
                .color(
                    heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges")
                )
                .y_axis(heatmap.YAxisConfig().unit(SECONDS))
                .span(panel.width)
                .height(HEIGHT)
                .with_target(target)
            )
        case Number():
            return (
                stat.Panel()
                .title(panel.title)
                .datasource(SOURCE)
                .unit(panel.unit)
                .span(panel.width)
                .height(HEIGHT // 2)
                .with_target(_targets([panel.query])[0])
            )


def _targets(asked: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend)
        .ref_id(chr(ord("A") + place))
        for place, query in enumerate(asked)
    ]
