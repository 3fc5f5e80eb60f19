import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from loadtest import capacity_report, summary
from loadtest.__main__ import main
from loadtest.capacity_run import measure_capacities
from loadtest.cli import show_capacities
from loadtest.credentials import Credentials
from loadtest.errors import LoadGeneratorFailed
from loadtest.run_folder import RunFolder, write_json
from loadtest.series import Series
from loadtest.server_metrics import Reading, Scrape
from loadtest.settings import LoadTestSettings
from loadtest.slo import Slo

KNEES = {"rest": 300.0, "grpc": 500.0}  # arrivals per second
FILES = ("capacity.png", "capacity.html")


@pytest.fixture
def searched(capacities: Path, tmp_path: Path) -> Path:
    """A copy of `capacities` that the test may change."""
    return Path(shutil.copytree(capacities, tmp_path / capacities.name, symlinks=True))


@pytest.fixture(scope="module")
def capacities(
    make_run_in: Callable[..., Path],
    raw_result: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A search over both protocols whose servers answer in 5 ms, and past their knee in 50."""
    home = tmp_path_factory.mktemp("capacities")

    def run(settings: LoadTestSettings, credentials: Credentials) -> Path:
        assert settings.open
        assert settings.rate is not None
        assert settings.output.name == settings.protocol
        requests = round(settings.rate * 10)
        us = 5000.0 if settings.rate <= KNEES[settings.protocol] else 50_000.0
        raw = raw_result(settings.protocol, [us] * requests)
        raw["series"]["lag"] = Series().encode()
        raw["offered"] = {"arrivals": requests, "unanswered": 0, "late_for_want_of_a_thread": 0}
        folder = make_run_in(
            home / "runs", settings.protocol, raw=[raw], settings=settings.document()
        )
        bucket = {"0.0025": 0.0, "+Inf": float(requests)}
        RunFolder(folder).write_server_metrics(
            Reading(Scrape(0, {}, 1.0), Scrape(requests, bucket, 1.0 + requests * 0.0012))
        )
        write_json(folder / summary.SUMMARY, summary.summarise(folder))
        return folder

    wanted = [
        LoadTestSettings("c", test_type, loop="open", rate=50, output=home / "out")
        for test_type in ("js-predict", "grpc-predict")
    ]
    keys = Credentials("j", "o", "s")
    return measure_capacities(wanted, lambda _: keys, Slo.parse("p99<20ms"), run, start_rate=50)


def test_each_protocols_capacity_is_found_with_what_a_prediction_costs(searched: Path) -> None:
    capacities = capacity_report.read(searched)
    assert capacities.keys() == KNEES.keys()
    for protocol, found in capacities.items():
        assert found.probes[0].rate_per_s == 50
        assert len(found.probes) <= 12
        assert found.rate_per_s is not None
        assert abs(found.rate_per_s / KNEES[protocol] - 1) < 0.05
        assert found.server_cpu_ms == pytest.approx(1.2)


def test_what_was_measured_until_the_end_is_kept(make_run: Any, tmp_path: Path) -> None:
    """As after Ctrl-C, or when a load test fails."""
    settings = LoadTestSettings("c", "js-predict", loop="open", rate=50, output=tmp_path / "out")
    made: list[float] = []

    def run(at_rate: LoadTestSettings, credentials: Credentials) -> Path:
        if len(made) == 3:
            raise LoadGeneratorFailed("killed")
        made.append(at_rate.rate or 0)
        offered = {"arrivals": 4, "unanswered": 0, "late_for_want_of_a_thread": 0}
        folder = make_run("rest", settings=at_rate.document(), offered=offered)
        write_json(folder / summary.SUMMARY, summary.summarise(folder))
        return folder

    slo = Slo.parse("p99<20ms")
    with pytest.raises(LoadGeneratorFailed):
        measure_capacities([settings], lambda _: Credentials("j"), slo, run, start_rate=50)
    folder = tmp_path / "out" / "latest"
    found = capacity_report.read(folder)["rest"]
    assert [probe.rate_per_s for probe in found.probes] == made == [50, 100, 200]
    assert found.because == "the search was interrupted after 3 probes"
    assert "interrupted" in (folder / "capacity.html").read_text(encoding="utf-8")


def test_the_page_shows_both_and_loads_nothing(searched: Path) -> None:
    html = (searched / "capacity.html").read_text(encoding="utf-8")
    assert re.search(r"<h1>Capacity at p99&lt;20ms: REST [0-9]+/s, gRPC [0-9]+/s</h1>", html)
    found = capacity_report.read(searched)
    assert found.keys() == KNEES.keys()
    for one in found.values():
        for probe in one.probes:
            assert f"{probe.rate_per_s:,.1f}" in html
    urls = re.findall(r"""(?:src|srcset|href)\s*=\s*["']([^"']*)""", html)
    assert urls
    assert all(url.startswith("#") for url in urls)
    assert "<script" not in html


def test_rebuilt_it_is_the_same(searched: Path) -> None:
    before = {name: (searched / name).read_bytes() for name in FILES}
    for name in FILES:
        (searched / name).unlink()
    result = CliRunner().invoke(main, ["report", str(searched)])
    assert result.exit_code == 0, result.output
    assert {name: (searched / name).read_bytes() for name in FILES} == before


def test_the_tables_fit_eighty_columns_and_end_with_what_was_found(searched: Path) -> None:
    console = Console(width=80, record=True)
    assert show_capacities(searched, console) == 0
    text = console.export_text()
    *lines, report = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert report.endswith("-capacity/capacity.html")
    assert "REST: p99<20ms is met up to" in text
    assert "gRPC: p99<20ms is met up to" in text


def test_a_folder_whose_capacity_is_damaged_is_reported(searched: Path) -> None:
    document = json.loads((searched / "capacity.json").read_text())
    del document["rest"]["probes"]
    (searched / "capacity.json").write_text(json.dumps(document))
    result = CliRunner().invoke(main, ["report", str(searched)])
    assert result.exit_code == 1
    assert "capacity.json is not a valid capacity" in result.output
