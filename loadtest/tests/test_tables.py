import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from loadtest import attribution, comparison, summary, tables

MakeRun = Callable[..., Path]


def printed(show: Callable[[Path, Console], None], folder: Path, width: int = 80) -> str:
    text = io.StringIO()
    show(folder, Console(file=text, width=width))
    return text.getvalue()


def test_comparison_fits_eighty_columns_and_ends_with_the_verdict(
    make_run: MakeRun, tmp_path: Path
) -> None:
    rest = make_run("rest", [1_250.0, 5_045_000.0])
    grpc = make_run("grpc", [1_000.0, 4_036_000.0])
    text = printed(
        tables.print_comparison,
        comparison.compare(comparison.sources([rest, grpc]), tmp_path / "out"),
    )
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line.split() for line in lines if line.startswith("  p50")] == [
        ["p50", "1.250", "1.000", "1.25", "20", "14"],
        ["p50", "0.625", "0.500", "1.25"],
    ]
    assert next(line.split() for line in lines if line.startswith("  max")) == [
        *("max", "5,045.000", "4,036.000", "1.25", "717", "5,045"),
    ]
    assert "not comparable" in text
    assert "\nmean: REST is 25.0 % slower than gRPC (no CI)\n" in text
    assert text.index("client side") < text.index("Server latency") < text.index("mean: REST is")
    assert "…" not in text


def test_every_statistic_has_its_row(make_run: MakeRun) -> None:
    folder = make_run()
    summary.write_report(folder)
    rows = tables.of_run(summary.summarise(folder))[0].rows
    assert [row[0] for row in rows] == ["responses", "failures", *tables.STATISTICS]
    text = printed(tables.print_summary, folder)
    for row in rows:
        for cell in row:
            assert cell in text


def test_invalid_and_failures_are_printed_as_they_are(make_run: MakeRun) -> None:
    folder = make_run(
        requests=5,
        failures={"[bold]HTTP 503": 1},
        digits={"scored": 4, "correct": 0, "expected_correct": 4.0},
    )
    summary.write_report(folder)
    text = printed(tables.print_summary, folder, 200)
    assert "INVALID: accuracy is 0.00 %, expected 100.00 %" in text
    assert "REST failures: 1, [bold]HTTP 503" in text


def test_the_parts_and_the_residual_add_up(make_run: MakeRun) -> None:
    figures = summary.summarise(make_run("rest", [float(us) for us in range(1000, 3000, 10)]))
    table = tables.of_attribution("REST", figures)
    assert table is not None
    assert table.columns == ("", "mean", "p50", "p90", "p99")
    *parts, total = [[float(cell) for cell in row[1:]] for row in table.rows]
    for column, whole in enumerate(total):
        assert sum(part[column] for part in parts) == pytest.approx(whole, abs=0.005)
    assert dict(figures["attribution"]["mean"]["parts"]) == pytest.approx(
        {
            attribution.INFERENCE: 0.499,
            attribution.QUEUE: 0.2,
            attribution.OTHER_SERVER: 0.299,
            attribution.UPSTREAM: 0.249,
            attribution.GATEWAY: 0.249,
            attribution.CLIENT_AND_NETWORK: 0.499,
            attribution.DISPATCH_LAG: 0,
        },
        abs=0.001,
    )


def test_without_server_timing_there_are_no_parts(make_run: MakeRun) -> None:
    figures = summary.summarise(make_run("rest", rows=[], rows_of=0))
    assert tables.of_attribution("REST", figures) is None


def test_the_guides_figures_are_the_published_ones() -> None:
    assert list(tables.GUIDE["grpc"].values()) == [43_521, 14, 16, 18, 19, 25, 36, 67, 110, 5_045]
    assert list(tables.GUIDE["rest"].values()) == [42_462, 20, 25, 30, 36, 63, 110, 190, 240, 717]
