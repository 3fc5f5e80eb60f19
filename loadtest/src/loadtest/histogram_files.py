"""Histogram files of a run for HdrHistogram's tools.

`<series>.hgrm` is a percentile distribution for plotters, `<series>.hlog` a histogram log: a line
per block for the request latency, one line for other series. Values are microseconds.
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


class Segment(NamedTuple):
    """A block of a run, in seconds from its start."""

    begin_s: float
    length_s: float
    series: Series


def write(
    folder: Path,
    series: Mapping[str, Series],
    client: Sequence[Segment],
    started: str | None,
    measured_s: float,
) -> None:
    """Write both files of every non-empty series.

    Args:
        folder: The run's folder; the files go to `histograms` below it.
        series: The series of the whole run, by name.
        client: The request latency by block; may be empty.
        started: The start of the measurement, ISO 8601.
        measured_s: The duration of the measurement.
    """
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    for name, whole in series.items():
        if not whole.count:
            continue
        (target / f"{name}.hgrm").write_bytes(hgrm(whole))
        segments = [one for one in client if one.series.count] if name == "client" else []
        if sum(one.series.count for one in segments) != whole.count:
            segments = [Segment(0.0, measured_s, whole)]
        (target / f"{name}.hlog").write_text(hlog(segments, started), encoding="ascii")


def hgrm(series: Series) -> bytes:
    """The percentile distribution."""
    text = io.BytesIO()
    series.histogram.output_percentile_distribution(text, MICROSECONDS, TICKS_PER_HALF_DISTANCE)
    return text.getvalue()


def hlog(segments: Sequence[Segment], started: str | None) -> str:
    """The histogram log, a line per segment."""
    text = io.StringIO()
    writer = HistogramLogWriter(text)
    writer.output_log_format_version()
    if started is not None:
        epoch_s = datetime.fromisoformat(started).timestamp()
        writer.output_comment(f"[StartTime: {epoch_s:.3f} (seconds since epoch), {started}]")
    writer.output_legend()
    for one in segments:
        writer.output_interval_histogram(
            one.series.histogram,
            # The writer treats 0 as missing and uses the histogram's own time, also 0.
            one.begin_s,
            one.begin_s + one.length_s,
            MICROSECONDS,
        )
    return text.getvalue()
