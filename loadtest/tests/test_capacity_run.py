import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest import summary, tables
from loadtest.capacity_run import CAPACITY, measure_capacity
from loadtest.credentials import Credentials
from loadtest.series import Series
from loadtest.settings import LoadTestSettings
from loadtest.slo import Slo

KNEE = 300.0


def test_the_search_runs_a_load_test_at_each_rate(
    make_run: Callable[..., Path], raw_result: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    rates: list[float] = []

    def run(settings: LoadTestSettings, credentials: Credentials) -> Path:
        """A server that answers in 5 ms, and past its knee in 50."""
        assert settings.open
        assert settings.rate is not None
        rates.append(settings.rate)
        requests = round(settings.rate * 10)
        us = 5000.0 if settings.rate <= KNEE else 50_000.0
        raw = raw_result("rest", [us] * requests)
        raw["series"]["lag"] = Series().encode()
        raw["offered"] = {"arrivals": requests, "unanswered": 0, "late_for_want_of_a_thread": 0}
        folder = make_run(raw=[raw], settings=settings.document())
        summary.write_report(folder)
        return folder

    settings = LoadTestSettings("c", "js-predict", loop="open", rate=50, output=tmp_path / "out")
    found, folder = measure_capacity(
        settings, Credentials("j", "o", "s"), Slo.parse("p99<20ms"), run, start_rate=50
    )
    assert rates[0] == 50
    assert len(rates) == len(found.probes) <= 12
    assert found.rate_per_s is not None
    assert abs(found.rate_per_s / KNEE - 1) < 0.05
    document = json.loads((folder / CAPACITY).read_text())
    assert document["rate_per_s"] == found.rate_per_s
    assert document["protocol"] == "rest"
    console = Console(width=80, record=True)
    tables.print_capacity(found, console)
    assert "p99<20ms is kept up to about" in console.export_text()
