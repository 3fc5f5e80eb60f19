"""The live page: scrapes over HTTP, summaries, and the page in a browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client import CollectorRegistry, Histogram, start_http_server

from monitoring import live_page
from monitoring.live_page import Scraper
from monitoring.metrics import DURATION_BUCKETS, LOADTEST_DURATION, ServingMetrics
from polling import eventually
from ports import free_ports

FAST_S = 0.1
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def serve() -> Iterator[Callable[[CollectorRegistry], str]]:
    """Serve a registry and return its address."""
    started: list[Any] = []

    def start(registry: CollectorRegistry) -> str:
        started.append(start_http_server(0, "127.0.0.1", registry))
        return f"127.0.0.1:{started[-1][0].server_port}"

    yield start
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def running(
    serve: Callable[[CollectorRegistry], str], tmp_path: Path
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The page's address over two servers and a load test, and what sends some requests."""
    servers = [CollectorRegistry() for _ in range(2)]
    metrics = [ServingMetrics(registry, "rest", "m", "1") for registry in servers]
    client = CollectorRegistry()
    seen = Histogram(
        LOADTEST_DURATION, "…", ("protocol",), buckets=DURATION_BUCKETS, registry=client
    ).labels("rest")

    def ask() -> None:
        for one in metrics:
            one.observe("c", "v", "200", 0.002, 0.0, 0.001, 1)
            seen.observe(0.004)

    targets = tmp_path / "targets.json"
    targets.write_text(json.dumps([{"targets": [serve(one)], "labels": {}} for one in servers]))
    loadtest = serve(client)
    scraper = Scraper(lambda: live_page.scrape_targets(targets, loadtest), FAST_S)
    server = live_page.serve(scraper, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    ask()  # so that there is something to count from
    scraper.start()
    yield f"http://127.0.0.1:{server.server_port}", ask
    scraper.stop()
    server.shutdown()
    server.server_close()
    thread.join()


def newest(url: str) -> dict[str, dict[str, Any]]:
    points = requests.get(f"{url}/points", timeout=5).json()["points"]
    return {one["side"]: one for one in (points[-1]["rows"] if points else [])}


def wait_for_both(url: str, ask: Callable[[], None]) -> dict[str, dict[str, Any]]:
    def both() -> dict[str, dict[str, Any]]:
        ask()
        return found if len(found := newest(url)) == 2 else {}

    return eventually(both, "a row of the client and one of the server")


def test_client_and_servers_are_side_by_side(running: tuple[str, Callable[[], None]]) -> None:
    url, ask = running
    found = wait_for_both(url, ask)
    assert found["server"]["p50_ms"] == pytest.approx(2, rel=0.1)
    assert found["client"]["p99_ms"] == pytest.approx(4, rel=0.1)
    assert found["server"]["per_s"] > 0
    assert requests.get(f"{url}/else", timeout=5).status_code == 404


def test_who_does_not_answer_is_left_out(tmp_path: Path) -> None:
    missing = live_page.scrape_targets(tmp_path / "none.json", "127.0.0.1:1")
    assert missing == ["127.0.0.1:1"]
    with requests.Session() as session:
        assert live_page.scrape(missing, session) == {}


def test_between_two_readings_is_what_was_counted_between() -> None:
    before = {("server", "rest"): {"0.001": 10.0, "+Inf": 10.0}}
    now = {("server", "rest"): {"0.001": 30.0, "+Inf": 30.0}, ("client", "rest"): {"+Inf": 5.0}}
    (row,) = live_page.summarise(now, before, 4.0)  # what was not there before is not yet known
    assert (row["side"], row["per_s"], row["p50_ms"]) == ("server", 5.0, 0.5)
    restarted = {("server", "rest"): {"0.001": 2.0, "+Inf": 2.0}}
    assert live_page.summarise(restarted, before, 4.0) == []


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_the_page_shows_them_in_a_browser(
    running: tuple[str, Callable[[], None]], tmp_path: Path
) -> None:
    url, ask = running
    wait_for_both(url, ask)
    page = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", f"--user-data-dir={tmp_path}"),
            *("--virtual-time-budget=3000", "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    ).stdout
    assert "REST, server" in page
    assert "REST, client" in page
    assert "load test running" in page
    assert page.count("<path") == 2
    assert page.index("REST, client") < page.index("REST, server")
    assert 'class="key rest server"' in page  # which line is which


def test_it_watches_the_stack_of_seldon_home(
    serve: Callable[[CollectorRegistry], str], tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    metrics = ServingMetrics(registry, "grpc", "m", "1")
    targets = [{"targets": [serve(registry)], "labels": {}}]
    (tmp_path / "targets.json").write_text(json.dumps(targets))
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "monitoring.live_page", f"--port={port}", "--loadtest=127.0.0.1:1"],
        env={**os.environ, "SELDON_HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"http://127.0.0.1:{port} until Ctrl-C\n"

        def shown() -> dict[str, dict[str, Any]]:
            metrics.observe("c", "v", "OK", 0.002)
            return newest(f"http://127.0.0.1:{port}")

        found = eventually(shown)
        assert found["server"]["protocol"] == "grpc"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert process.returncode == 0
