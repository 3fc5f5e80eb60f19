import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from loadtest import comparison, summary, tables
from loadtest.__main__ import main
from loadtest.comparison import RunsUnlike
from loadtest.series import Series

MakeRun = Callable[..., Path]


@pytest.fixture
def compared(make_run: MakeRun, tmp_path: Path) -> Path:
    rest = make_run("rest", [1_250.0, 2_500.0, 3_750.0], requests=4, failures={"<b>HTTP</b>": 1})
    grpc = make_run("grpc", [1_000.0, 2_000.0, 3_000.0])
    return compare(rest, grpc, tmp_path / "out")


def compare(a: Path, b: Path, output: Path, **more: Any) -> Path:
    return comparison.compare(comparison.sources([a, b]), output, **more)


def test_comparison_holds_both_runs_and_the_verdict(compared: Path) -> None:
    assert compared.name.endswith("-rest-vs-grpc")
    assert comparison.is_comparison(compared)
    document = json.loads((compared / "summary.json").read_text(encoding="utf-8"))
    sentence = "mean: REST is 25.0 % slower than gRPC (no CI)"
    assert document["verdicts"][0]["sentence"] == sentence
    assert document["runs"]["rest"] == summary.summarise(compared / "rest")
    assert document["runs"]["grpc"] == summary.summarise(compared / "grpc")
    assert (compared / "percentiles.png").read_bytes().startswith(b"\x89PNG")


def test_report_shows_the_figures_and_loads_nothing(compared: Path) -> None:
    html = (compared / "report.html").read_text(encoding="utf-8")
    figures = json.loads((compared / "summary.json").read_text(encoding="utf-8"))
    assert "<h1>mean: REST is 25.0 % slower than gRPC (no CI)</h1>" in html
    for run in figures["runs"].values():
        for name in ("client", "server_total"):
            for key, value in run["latency_ms"][name].items():
                assert (f"{value:,}" if key == "count" else f"{value:,.3f}") in html
    assert figures["runs"]["rest"]["machine"]["cpu"] in html
    assert "No confidence interval" in html
    assert "&lt;b&gt;HTTP&lt;/b&gt;" in html
    assert "<b>HTTP" not in html
    # Within itself only: what the SVG refers to by id.
    loaded = re.findall(r"""(?:src|srcset|href|action)\s*=\s*["']([^"']*)""", html)
    loaded += re.findall(r"url\(([^)]*)\)", html)
    assert loaded
    assert all(url.startswith("#") and f'id="{url[1:]}"' in html for url in loaded)
    assert "@import" not in html
    assert re.findall(r"<script[^>]*>", html) == ["<script>"]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket", html)


def test_rebuilt_elsewhere_is_byte_for_byte_the_same(compared: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(compared, elsewhere)
    names = ("summary.json", "percentiles.png", "summary.png", "report.html")
    for name in names:
        (elsewhere / name).unlink()
    comparison.write_report(elsewhere)
    for name in names:
        assert (elsewhere / name).read_bytes() == (compared / name).read_bytes()


def test_unlike_runs_are_refused_and_leave_no_folder(make_run: MakeRun, tmp_path: Path) -> None:
    rest, grpc = make_run("rest"), make_run("grpc", settings={"users": 51, "payload": "random"})
    with pytest.raises(RunsUnlike, match="payload: REST digits, gRPC random; users: REST 50, gR"):
        compare(rest, grpc, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    document = json.loads(
        (compare(rest, grpc, tmp_path / "out", allow_differences=True) / "summary.json").read_text()
    )
    assert len(document["verdicts"][0]["unfair"]) == 2


def test_two_runs_of_one_protocol_are_a_and_b_or_as_they_are_called(
    make_run: MakeRun, tmp_path: Path
) -> None:
    runs = [make_run("grpc", [1_000.0, 2_000.0]), make_run("grpc", [2_000.0, 4_000.0])]
    folder = comparison.compare(comparison.sources(runs), tmp_path / "out")
    document = json.loads((folder / "summary.json").read_text())
    assert document["verdicts"][0]["sentence"] == "mean: B is 100 % slower than A (no CI)"
    assert document["verdicts"][0]["slower"] == "b"
    named = comparison.sources(runs, ["Threads (8)", "asyncio"])
    assert [one.key for one in named] == ["threads-8", "asyncio"]
    html = (comparison.compare(named, tmp_path / "out") / "report.html").read_text()
    assert "<h1>mean: asyncio is 100 % slower than Threads (8) (no CI)</h1>" in html
    assert "REST 2017" not in html
    for names in (["one"], ["same", "Same"]):
        with pytest.raises(RunsUnlike, match="expected 2 distinct names"):
            comparison.sources(runs, names)


def test_of_several_each_is_compared_with_the_first(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("rest", [ms * 1000.0]) for ms in (1, 2, 4)]
    folder = comparison.compare(comparison.sources(runs, ["x", "y", "z"]), tmp_path / "out")
    document = json.loads((folder / "summary.json").read_text())
    assert [(one["a"], one["b"], one["percent"]) for one in document["verdicts"]] == [
        ("x", "y", 100.0),
        ("x", "z", 300.0),
    ]
    ((*_, y, z),) = (table.rows for table in tables.of_comparison(document))
    assert (y[0], y[-1], z[-1]) == ("y", "2.00", "4.00")
    assert "3 request variants" in (folder / "report.html").read_text()


def test_run_without_a_request_still_has_a_report(make_run: MakeRun, tmp_path: Path) -> None:
    rest, grpc = make_run("rest", raw=[]), make_run("grpc")
    folder = compare(rest, grpc, tmp_path / "out")
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "are not comparable" in html
    assert "REST: the number of measured requests is 0" in html
    summary.write_report(rest)
    assert "REST: no request succeeded" in (rest / "report.html").read_text(encoding="utf-8")


def test_commands(make_run: MakeRun, tmp_path: Path) -> None:
    rest, grpc = make_run("rest"), make_run("grpc")
    output = tmp_path / "out"
    result = CliRunner().invoke(main, ["compare", str(rest), str(grpc), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "REST and gRPC are equal within 0.5 %" in result.output
    again = CliRunner().invoke(main, ["report", str(output / "latest")])
    assert again.exit_code == 0, again.output
    assert "report.html" in again.output
    one = CliRunner().invoke(main, ["report", str(rest)])
    assert one.exit_code == 0, one.output


def test_commands_fail_on_what_is_not_valid(make_run: MakeRun, tmp_path: Path) -> None:
    invalid = make_run("rest", settings={"processes": 2})
    assert CliRunner().invoke(main, ["report", str(invalid)]).exit_code == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    result = CliRunner().invoke(main, ["report", str(empty)])
    assert result.exit_code == 1
    assert "error: empty has no settings.json, expected a load-test result" in result.output
    alone = CliRunner().invoke(main, ["compare", str(make_run("grpc"))])
    assert "error: the number of folders is 1, expected 2 or more" in alone.output
    unlike = ["compare", str(make_run("grpc")), str(make_run("rest", settings={"seed": 2}))]
    assert "seed: gRPC 1, REST 2" in CliRunner().invoke(main, unlike).output


def test_blocks_give_a_confidence_interval_and_a_single_series_none(
    make_run: Callable[..., Path], raw_result: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def in_turns(protocol: str, numbers: range, factor: float) -> Path:
        blocks = []
        for number in numbers:
            series = Series()
            for us in range(1000, 1100):
                series.record(us * factor * (1 + 0.001 * number))
            blocks.append({"number": number, "series": series.encode()})
        return make_run(
            protocol, raw=[raw_result(protocol, blocks=blocks)], settings={"group": group}
        )

    group: str | None = "one benchmark"
    rest, grpc = in_turns("rest", range(0, 20, 2), 1.1), in_turns("grpc", range(1, 20, 2), 1.0)
    folder = compare(rest, grpc, tmp_path / "out")
    verdict = json.loads((folder / "summary.json").read_text())["verdicts"][0]
    assert verdict["slower"] == "rest"
    assert "(95 % CI" in verdict["sentence"]
    low, high = verdict["intervals"]["mean"]
    assert 1.05 < low <= verdict["ratios"]["mean"] <= high < 1.15
    plain = compare(make_run("rest"), make_run("grpc"), tmp_path / "out")
    verdict = json.loads((plain / "summary.json").read_text())["verdicts"][0]
    assert verdict["intervals"] is None
    assert "No confidence interval" in verdict["caveats"][0]
    group = None
    # Of one piece each: from how much the stretches of each vary.
    rest, grpc = in_turns("rest", range(10), 1.1), in_turns("grpc", range(10), 1.0)
    whole = compare(rest, grpc, tmp_path / "out")
    verdict = json.loads((whole / "summary.json").read_text())["verdicts"][0]
    assert verdict["slower"] == "rest"
    assert "were not interleaved" in verdict["caveats"][0]
    # Turns of two benchmarks are no turns.
    group = "another"
    rest = in_turns("rest", range(0, 20, 2), 1.1)
    group = "one benchmark"
    grpc = in_turns("grpc", range(1, 20, 2), 1.0)
    apart = compare(rest, grpc, tmp_path / "out")
    verdict = json.loads((apart / "summary.json").read_text())["verdicts"][0]
    assert "were not interleaved" in verdict["caveats"][0]
