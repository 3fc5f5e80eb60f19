"""capacity.html and capacity.png: latency by arrival rate for every protocol."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtest import plots, report, tables
from loadtest.capacity import Capacity
from loadtest.run_folder import PROTOCOLS, ResultUnreadable, read_json
from loadtest.slo import LATENCIES
from loadtest.summary import MACHINE

CAPACITY = "capacity.json"
PICTURE = "capacity.png"
PAGE = "capacity.html"
WIDE, CONVERGED = (9.6, 4.9), (4.3, 4.6)
CURVES = {"p50": "--", "p99": "-"}


def is_capacity(folder: Path) -> bool:
    return (folder / CAPACITY).is_file()


def read(folder: Path) -> dict[str, Capacity]:
    """The capacities by protocol.

    Raises:
        ResultUnreadable: The folder holds no capacity.
    """
    document = read_json(folder / CAPACITY)
    try:
        return {
            protocol: Capacity.from_document(document[protocol])
            for protocol in PROTOCOLS
            if protocol in document
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ResultUnreadable(
            f"{folder.name}/{CAPACITY} is not a valid capacity: {error!r}"
        ) from error


def write(folder: Path) -> None:
    """Write both files from the folder's capacity.json and machine.json."""
    found = read(folder)
    (folder / PICTURE).write_bytes(plots.png(WIDE, lambda axes: draw(axes, found)))
    (folder / PAGE).write_text(page(found, read_json(folder / MACHINE)), encoding="utf-8")


def page(found: Mapping[str, Capacity], machine: Mapping[str, Any]) -> str:
    """The page as HTML."""
    named = [(PROTOCOLS[protocol], one) for protocol, one in found.items()]
    environment = report.environment()
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment.get_template("capacity.html.j2").render(
        headline=headline(found),
        capacities=named,
        wide=plots.svg(WIDE, lambda axes: draw(axes, found), "wide"),
        narrow=plots.svg(CONVERGED, lambda axes: draw(axes, found), "narrow"),
        summary=tables.of_capacities(named),
        probes=[tables.of_probes(name, one) for name, one in named],
        machine=report.machine_rows([machine]),
        names=[""],
        colours=plots.COLOURS,
        parts=[],
    )


def headline(found: Mapping[str, Capacity]) -> str:
    """The capacities in one line."""
    slo = next(iter(found.values())).slo.text
    rates = [f"{PROTOCOLS[protocol]} {tables.rate_of(one)}" for protocol, one in found.items()]
    return f"Capacity at {slo}: {', '.join(rates)}"


def draw(axes: Axes, found: Mapping[str, Capacity]) -> None:
    """Draw latency by arrival rate, the SLO and the likely ranges."""
    for protocol, capacity in found.items():
        colour = plots.COLOURS[list(PROTOCOLS).index(protocol)]
        probes = sorted(capacity.probes, key=lambda one: one.rate_per_s)
        for statistic, style in CURVES.items():
            valid = [one for one in probes if one.margin(capacity.slo) is not None]
            for points, face in ((valid, colour), ([p for p in probes if p not in valid], "none")):
                drawn = [
                    (one.offered_per_s, ms)
                    for one in points
                    if (ms := one.latency_ms.get(statistic)) is not None
                ]
                if drawn:
                    axes.plot(
                        *zip(*drawn, strict=True),
                        linestyle=style if points is valid else "none",
                        marker="o",
                        markersize=4.5,
                        markerfacecolor=face,
                        color=colour,
                        label=f"{PROTOCOLS[protocol]} {statistic}" if points is valid else None,
                    )
        if capacity.low_per_s is not None and capacity.high_per_s is not None:
            axes.axvspan(capacity.low_per_s, capacity.high_per_s, color=colour, alpha=0.15, lw=0)
    for condition in next(iter(found.values())).slo.conditions:
        if condition.statistic in LATENCIES:
            axes.axhline(condition.limit, linestyle=":", color=plots.INK)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("arrival rate, requests/s")
    axes.set_ylabel("latency, ms")
    axes.grid(visible=True, which="major", color=plots.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
