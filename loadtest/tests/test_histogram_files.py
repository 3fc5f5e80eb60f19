"""What is written is read back by HdrHistogram's own reader, and is what was measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from loadtest import histogram_files, summary
from loadtest.histogram_files import Segment
from loadtest.series import DIGITS, HIGHEST_US, LOWEST_US, Series

SERIES_FILES = ("client", "gateway", "upstream", "server_total", "server_queue", "server_compute")


def read_log(path: Path) -> tuple[HdrHistogram, int]:
    """All lines of a log together, and how many there are."""
    together = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    reader = HistogramLogReader(str(path), together)
    lines = 0
    while (one := reader.get_next_interval_histogram()) is not None:
        together.add(one)
        lines += 1
    reader.close()
    return together, lines


def of(durations: np.ndarray[Any, Any]) -> Series:
    series = Series()
    for us in durations:
        series.record(float(us))
    return series


def test_every_series_has_both_files_and_an_empty_one_has_none(
    make_run: Callable[..., Path],
) -> None:
    folder = make_run()
    summary.write_report(folder)
    names = {path.name for path in (folder / "histograms").iterdir()}
    assert names == {f"{name}.{kind}" for name in SERIES_FILES for kind in ("hgrm", "hlog")}


def test_the_logs_stretches_are_the_whole_run(tmp_path: Path) -> None:
    durations = np.random.default_rng(1).lognormal(7, 1, 3000)
    parts = [Segment(2.0 * n, 2.0, of(durations[n::3])) for n in range(3)]
    whole = of(durations)
    started = "2026-01-02T03:04:05.000+00:00"
    histogram_files.write(tmp_path, {"client": whole, "lag": Series()}, parts, started, 6)
    read, lines = read_log(tmp_path / "histograms" / "client.hlog")
    assert lines == 3
    assert read.get_total_count() == 3000
    for percentile in (0, 50, 90, 99, 99.9, 100):
        assert read.get_value_at_percentile(percentile) == whole.histogram.get_value_at_percentile(
            percentile
        )
    text = (tmp_path / "histograms" / "client.hlog").read_text()
    assert "#[StartTime: 1767323045.000 (seconds since epoch)" in text
    assert [line.split(",")[:2] for line in text.splitlines() if line[0].isdigit()] == [
        ["0.000000", "2.000000"],
        ["2.000000", "2.000000"],
        ["4.000000", "2.000000"],
    ]
    assert not (tmp_path / "histograms" / "lag.hlog").exists()


def test_the_distribution_has_the_percentiles_in_microseconds(tmp_path: Path) -> None:
    text = histogram_files.hgrm(of(np.arange(1, 1001))).decode()
    rows = [line.split() for line in text.splitlines() if line[:1] == " "]
    assert rows[0] == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    for row in rows[1:]:
        value, percentile, count = (float(cell) for cell in row[:3])
        assert value == count == max(np.ceil(round(1000 * percentile, 9)), 1)
    assert float(rows[-1][1]) == 1
    assert "TotalCount     =     1000.000]" in text
