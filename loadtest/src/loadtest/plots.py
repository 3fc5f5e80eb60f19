"""Percentile curves as PNG: latency over the share of requests that were faster."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from loadtest.run_folder import PROTOCOLS
from loadtest.series import Series

POINTS = 400
SIDES = {"client": ("client", "-"), "server_total": ("server", "--")}


@dataclass(frozen=True)
class Theme:
    background: str
    ink: str
    grid: str
    colours: Mapping[str, str]  # Okabe and Ito's, which colour-blind readers tell apart


LIGHT = Theme("#ffffff", "#1f2328", "#d8dee4", {"rest": "#d55e00", "grpc": "#0072b2"})
DARK = Theme("#161b22", "#e6edf3", "#353c45", {"rest": "#ff9e4a", "grpc": "#56b4e9"})


@dataclass(frozen=True)
class Size:
    """Inches, and how many dots each is."""

    width: float
    height: float
    dpi: int = 150


WIDE = Size(9.6, 4.9)
NARROW = Size(4.3, 4.6, 180)


@dataclass(frozen=True)
class Curve:
    """One line: `ms[i]` is the latency at percentile `percentiles[i]`."""

    protocol: str
    side: str  # a key of SIDES
    percentiles: tuple[float, ...]
    ms: tuple[float, ...]

    @property
    def label(self) -> str:
        return f"{PROTOCOLS[self.protocol]}, {SIDES[self.side][0]}"


def curves_of(protocol: str, series: Mapping[str, Series]) -> list[Curve]:
    """The client's and the server's curve of one run, up to the last percentile it can tell."""
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
        curves.append(Curve(protocol, side, tuple(percentiles), tuple(ms)))
    return curves


@dataclass(frozen=True)
class Pictures:
    """The same curves for each way a report is read."""

    light: bytes
    dark: bytes
    light_narrow: bytes
    dark_narrow: bytes


def draw_all(curves: Sequence[Curve]) -> Pictures:
    return Pictures(
        draw(curves, LIGHT, WIDE),
        draw(curves, DARK, WIDE),
        draw(curves, LIGHT, NARROW),
        draw(curves, DARK, NARROW),
    )


def draw(curves: Sequence[Curve], theme: Theme = LIGHT, size: Size = WIDE) -> bytes:
    """The curves as a PNG; the same curves give the same bytes."""
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws alike
        "font.size": 10,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.grid,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
    }
    with rc_context(style):
        figure = Figure(figsize=(size.width, size.height), dpi=size.dpi, layout="constrained")
        FigureCanvasAgg(figure)
        figure.patch.set_facecolor(theme.background)
        axes = figure.add_subplot()
        axes.set_facecolor(theme.background)
        for curve in curves:
            inverse = 1 / (1 - np.array(curve.percentiles) / 100)
            axes.plot(
                inverse,
                curve.ms,
                linestyle=SIDES[curve.side][1],
                color=theme.colours[curve.protocol],
                linewidth=2,
                label=curve.label,
            )
        longest = max((10.0, *(1 / (1 - curve.percentiles[-1] / 100) for curve in curves)))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(1, longest * 1.03)
        ticks = [tick for tick in (2, 10, 100, 1_000, 10_000, 100_000) if tick <= longest]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 1 / x):g}"))
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.set_xlabel("percentile of the requests")
        axes.set_ylabel("latency, ms")
        axes.grid(visible=True, which="major", color=theme.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        for edge in ("top", "right"):
            axes.spines[edge].set_visible(False)
        if curves:
            axes.legend(frameon=False, loc="upper left", labelcolor=theme.ink)
        else:
            axes.text(0.5, 0.5, "no request succeeded", transform=axes.transAxes, ha="center")
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
