"""A run's histograms as files that HdrHistogram's own tools read.

`<series>.hgrm` is the percentile distribution that its plotters take, `<series>.hlog` a histogram
log: of the client's a line for each stretch of the run, of the others' one. Values are
microseconds.
Source: https://hdrhistogram.github.io/HdrHistogram/
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from hdrh.log import HistogramLogWriter  # type: ignore[import-untyped]  # the package has no types

from loadtest.series import Series

FOLDER = "histograms"
TICKS_PER_HALF_DISTANCE = 5  # HdrHistogram's own default
MICROSECONDS = 1.0


class Stretch(NamedTuple):
    """A part of a run, in seconds from its start."""

    begin_s: float
    length_s: float
    series: Series


def write(
    folder: Path,
    series: Mapping[str, Series],
    client: Sequence[Stretch],
    started: str | None,
    measured_s: float,
) -> None:
    """Write both files of every series that holds a duration.

    Args:
        folder: The run's; the files are in `histograms` below it.
        series: Of the whole run, by name.
        client: The client's, stretch by stretch; may be empty.
        started: When measuring began, ISO 8601.
        measured_s: How long it went on.
    """
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    for name, whole in series.items():
        if not whole.count:
            continue
        (target / f"{name}.hgrm").write_bytes(hgrm(whole))
        stretches = [one for one in client if one.series.count] if name == "client" else []
        if sum(one.series.count for one in stretches) != whole.count:
            stretches = [Stretch(0.0, measured_s, whole)]
        (target / f"{name}.hlog").write_text(hlog(stretches, started), encoding="ascii")


def hgrm(series: Series) -> bytes:
    """The percentile distribution."""
    text = io.BytesIO()
    series.histogram.output_percentile_distribution(text, MICROSECONDS, TICKS_PER_HALF_DISTANCE)
    return text.getvalue()


def hlog(stretches: Sequence[Stretch], started: str | None) -> str:
    """The log, a line for each stretch."""
    text = io.StringIO()
    writer = HistogramLogWriter(text)
    writer.output_log_format_version()
    if started is not None:
        epoch_s = datetime.fromisoformat(started).timestamp()
        writer.output_comment(f"[StartTime: {epoch_s:.3f} (seconds since epoch), {started}]")
    writer.output_legend()
    for one in stretches:
        writer.output_interval_histogram(
            one.series.histogram,
            # The writer takes 0 for "not given", and the histogram's own time, which is 0, instead.
            one.begin_s,
            one.begin_s + one.length_s,
            MICROSECONDS,
        )
    return text.getvalue()
