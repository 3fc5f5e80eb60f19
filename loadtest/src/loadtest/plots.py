"""Plots of a result: percentile curves as SVG and PNG, and a slide.

SVG plots use the page's CSS colours, for light and dark mode; `Picture.reading` holds the values
for the page's script.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from loadtest.attribution import LABELS, PARTS
from loadtest.series import Series

POINTS = 300
UNITS_PER_INCH = 72  # of an SVG
SIDES = {"client": ("request latency", "-"), "server_total": ("server latency", "--")}

BACKGROUND, INK, GRID = "#ffffff", "#1f2328", "#d8dee4"
# Okabe and Ito's colour-blind safe palette; in a report --c0, --c1, …
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c6d31")
PART_COLOURS = dict(
    zip(
        PARTS,
        ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#0072b2", "#8b949e", "#f0e442"),
        strict=True,
    )
)
TICKS = (2, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Curve:
    """One curve: `ms[i]` is the latency at percentile `percentiles[i]`."""

    name: str
    side: str  # a key of SIDES
    colour: int  # index into COLOURS
    percentiles: tuple[float, ...]
    ms: tuple[float, ...]

    @property
    def label(self) -> str:
        return f"{self.name} {SIDES[self.side][0]}"


def curves_of(name: str, series: Mapping[str, Series], colour: int) -> list[Curve]:
    """The request and server latency curves of one run, up to its last percentile."""
    curves = []
    for side in SIDES:
        one = series[side]
        if one.count < 2:
            continue
        # Evenly spaced on the axis 1 / (1 - p); of n durations the longest stands at 1 - 1/n.
        inverse = np.geomspace(1, one.count, POINTS)
        percentiles = [float(percentile) for percentile in 100 * (1 - 1 / inverse)]
        found = [*one.percentiles_ms(percentiles[:-1]), one.max_ms]
        ms = [max(value or 0.0, 0.001) for value in found]  # the axis is logarithmic
        curves.append(Curve(name, side, colour % len(COLOURS), tuple(percentiles), tuple(ms)))
    return curves


@dataclass(frozen=True)
class Picture:
    """An SVG and the values behind it.

    `reading` holds the plot area's `box` (left, top, right, bottom in SVG units), the largest
    `inverse` (1 / (1 - p)) of the horizontal axis, the range of `ms`, and `name`, `colour`,
    `inverse` and `ms` of each curve.
    """

    svg: str
    reading: dict[str, Any]


@dataclass(frozen=True)
class Pictures:
    """The same curves as PNG and as wide and narrow SVG."""

    curves: tuple[Curve, ...]
    png: bytes
    wide: Picture
    narrow: Picture

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> Pictures:
        return cls(
            tuple(curves),
            png((9.6, 4.9), lambda axes: _draw_curves(axes, curves)),
            _picture(curves, (9.6, 4.9), "wide"),
            _picture(curves, (4.3, 4.6), "narrow"),
        )


def slide(
    headline: str,
    curves: Sequence[Curve],
    attributions: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> bytes:
    """A PNG of 1920 x 1080: curves on the left, latency breakdowns on the right.

    Args:
        headline: The title; may be empty.
        curves: The curves of every run.
        attributions: `attribution` of summary.json, by run name.
    """
    with _style(13):
        figure = Figure(figsize=(12.8, 7.2), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        known = {name: one for name, one in attributions.items() if one}
        grid = figure.add_gridspec(1, 2 if known else 1, width_ratios=[3, 2] if known else [1])
        _draw_curves(figure.add_subplot(grid[0]), curves)
        if known:
            _draw_parts(figure.add_subplot(grid[1]), known)
        figure.suptitle(_wrapped(headline), fontsize=17, fontweight="bold", wrap=True)
        return _png(figure, 150)


def _wrapped(text: str) -> str:
    """A verdict with its last parenthesis on a second line."""
    before, _, after = text.rpartition(" (")
    return f"{before}\n({after}" if before else text


def _draw_parts(axes: Axes, attributions: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    bars = [
        (f"{name}\n{statistic}", one[statistic]["parts"])
        for statistic in ("p50", "p99")
        for name, one in attributions.items()
        if statistic in one
    ]
    left = np.zeros(len(bars))
    for part in PARTS:
        values = np.array([max(parts[part], 0.0) for _, parts in bars])
        if values.any():
            axes.barh(
                range(len(bars)), values, left=left, color=PART_COLOURS[part], label=LABELS[part]
            )
        left += values
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("time, ms (mean of requests near the percentile)")
    axes.set_title("Latency breakdown", loc="left")
    axes.grid(visible=True, axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(
        frameon=False, loc="upper center", bbox_to_anchor=(0.4, -0.12), fontsize=11, ncols=2
    )
    for edge in ("top", "right", "left"):
        axes.spines[edge].set_visible(False)


@contextmanager
def _style(font_size: int = 10) -> Iterator[None]:
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # ships with matplotlib, so every machine draws the same
        "font.size": font_size,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GRID,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.fonttype": "none",
        "svg.hashsalt": "loadtest",  # reproducible ids
    }
    with rc_context(style):
        yield


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    for index, curve in enumerate(curves):
        inverse = 1 / (1 - np.array(curve.percentiles) / 100)
        axes.plot(
            inverse,
            curve.ms,
            linestyle=SIDES[curve.side][1],
            color=COLOURS[curve.colour],
            linewidth=2,
            label=curve.label,
            gid=f"curve-{index}",
        )
    longest = max((10.0, *(1 / (1 - curve.percentiles[-1] / 100) for curve in curves)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, longest * 1.03)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if tick <= longest]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 1 / x):g}"))
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.set_xlabel("percentile")
    axes.set_ylabel("latency, ms")
    axes.grid(visible=True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    if curves:
        axes.legend(frameon=False, loc="upper left")
    else:
        axes.text(0.5, 0.5, "no request succeeded", transform=axes.transAxes, ha="center")


Draw = Callable[[Axes], None]


def png(inches: tuple[float, float], draw: Draw) -> bytes:
    """A plot as PNG."""
    return _png(_figure(inches, 150, draw), 150)


def svg(inches: tuple[float, float], draw: Draw, name: str) -> str:
    """A plot as SVG in the page's colours; `name` is unique on the page."""
    return _svg(_figure(inches, UNITS_PER_INCH, draw), name)


def _figure(inches: tuple[float, float], dpi: int, draw: Draw) -> Figure:
    with _style():
        figure = Figure(figsize=inches, dpi=dpi, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        return figure


def _png(figure: Figure, dpi: int) -> bytes:
    image = io.BytesIO()
    with _style():
        figure.savefig(image, format="png", dpi=dpi, metadata={"Software": None})
    return image.getvalue()


def _svg(figure: Figure, name: str) -> str:
    image = io.StringIO()
    with _style():
        figure.savefig(image, format="svg", transparent=True, metadata={"Date": None})
    text = image.getvalue()
    text = text[text.index("<svg") :].replace(INK, "var(--ink)").replace(GRID, "var(--line)")
    for index, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--c{index})")
    # Ids must be unique on a page with several plots.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return re.sub(r'(href="|url\()#', rf"\1#{name}-", text)


def _picture(curves: Sequence[Curve], inches: tuple[float, float], name: str) -> Picture:
    figure = _figure(inches, UNITS_PER_INCH, lambda axes: _draw_curves(axes, curves))
    text = _svg(figure, name)
    axes = figure.axes[0]
    height = inches[1] * UNITS_PER_INCH
    area = axes.get_window_extent()
    return Picture(
        text,
        {
            "box": [round(n, 2) for n in (area.x0, height - area.y1, area.x1, height - area.y0)],
            "inverse": round(float(axes.get_xlim()[1]), 4),
            "ms": [float(f"{ms:.6g}") for ms in axes.get_ylim()],
            "curves": [
                {
                    "id": f"{name}-curve-{index}",
                    "name": curve.label,
                    "colour": curve.colour,
                    "inverse": [float(f"{1 / (1 - p / 100):.5g}") for p in curve.percentiles],
                    "ms": [float(f"{ms:.4g}") for ms in curve.ms],
                }
                for index, curve in enumerate(curves)
            ],
        },
    )
