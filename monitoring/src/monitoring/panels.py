"""Builders of dashboard panels: their look, units and thresholds. Pure."""

from __future__ import annotations

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    timeseries,
)
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueTextMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from monitoring import limits, rules

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")

# Grafana's names of units.
SECONDS, MILLISECONDS, PER_SECOND, RATIO, BYTES, NUMBER = (
    "s", "ms", "reqps", "percentunit", "bytes", "short",
)  # fmt: skip
HEIGHT, FULL, HALF, THIRD = 8, 24, 12, 8

Query = tuple[str, str]  # expression and legend
Steps = tuple[tuple[float | None, str], ...]  # lower bound and colour

TRAFFIC: Steps = ((None, "text"), (0.01, "green"))
ERRORS: Steps = (
    (None, "green"),
    (limits.SLO_ERROR_RATIO, "yellow"),
    (rules.BURN_RATES[0][2] * limits.SLO_ERROR_RATIO, "red"),
)
LATENCY: Steps = ((None, "green"), (limits.SLO_P99_S / 2, "yellow"), (limits.SLO_P99_S, "red"))
CONCURRENCY: Steps = (
    (None, "green"),
    (limits.QUEUE_LIMIT / 2, "yellow"),
    (limits.QUEUE_LIMIT, "red"),
)
VALIDITY: Steps = ((None, "red"), (1, "green"))
NEUTRAL: Steps = ((None, "text"),)


def stat_row(*stats: stat.Panel) -> tuple[stat.Panel, ...]:
    """Lay panels out over the full width."""
    width = -(-FULL // len(stats))
    for place, panel in enumerate(stats):
        panel.span(min(width, FULL - place * width))
    return stats


def stat_panel(
    title: str, unit: str, steps: Steps, description: str, query: Query, *, texts: bool = False
) -> stat.Panel:
    """The current value of each series, coloured by threshold; `texts` shows 1 and 0 as words."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .thresholds(_thresholds(steps))
        .color_mode(BigValueColorMode.BACKGROUND)
        .text_mode(BigValueTextMode.VALUE_AND_NAME)
        .height(HEIGHT // 2)
        .with_target(_target(query))
    )
    if texts:
        words = {"1": ValueMappingResult(text="valid"), "0": ValueMappingResult(text="INVALID")}
        panel.mappings([ValueMap(options=words)])
    return panel


def timeseries_panel(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    width: int = HALF,
    limit: float | None = None,
    stacked: bool = False,
    axis: str = "",
) -> timeseries.Panel:
    """Series over time, with `limit` as a dashed red line."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .axis_label(axis)
        .span(width)
        .height(HEIGHT)
        .line_width(1.5)
        .fill_opacity(30 if stacked else 5)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
    )
    if limit is not None:
        dashed = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        panel.thresholds(_thresholds(((None, "green"), (limit, "red")))).thresholds_style(dashed)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for place, query in enumerate(queries):
        panel.with_target(_target(query).ref_id(chr(ord("A") + place)))
    return panel


def heatmap_panel(title: str, hop: str, description: str, width: int = HALF) -> heatmap.Panel:
    """The latency distribution of a hop over time."""
    measured = rules.HOPS[hop]
    match = f'{measured.protocol}=~"$protocol"'
    if "variation" in measured.labels:
        match += ', variation=~"$variation"'
    buckets = _target((measured.bucket_rates((), match), "{{le}}")).format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges"))
        .y_axis(heatmap.YAxisConfig().unit(SECONDS if measured.unit_s == 1 else MILLISECONDS))
        .span(width)
        .height(HEIGHT)
        .with_target(buckets)
    )


def _target(query: Query) -> prometheus.Dataquery:
    expr, legend = query
    return prometheus.Dataquery().expr(expr).legend_format(legend).ref_id("A")


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=color) for value, color in steps])
    )
