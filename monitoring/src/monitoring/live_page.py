"""`python -m monitoring.live_page`: live client and server latency without Grafana.

Scrapes the /metrics of servers and load test every second and shows request rate, p50 and p99 of
the last ten seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import requests

from monitoring import histograms
from monitoring.histograms import Buckets
from monitoring.metrics import LOADTEST_DURATION, LOADTEST_PORT, REQUEST_DURATION

SCRAPE_INTERVAL_S = 1.0
WINDOW_S = 10.0
HISTORY_S = 300.0
TIMEOUT_S = 2.0
SIDES = {"client": LOADTEST_DURATION, "server": REQUEST_DURATION}

Scrape: TypeAlias = dict[tuple[str, str], Buckets]  # by side and protocol


def scrape_targets(targets_file: Path, loadtest: str) -> list[str]:
    """The addresses of the servers in the file and of the load test."""
    groups: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        groups = json.loads(targets_file.read_text(encoding="utf-8"))
    return [*(target for group in groups for target in group["targets"]), loadtest]


def scrape(targets: Iterable[str], session: requests.Session) -> Scrape:
    """Read the latency histograms, summed over targets; skip targets that are down."""
    found: Scrape = {}
    for target in targets:
        try:
            text = session.get(f"http://{target}/metrics", timeout=TIMEOUT_S).text
        except requests.RequestException:
            continue
        for side, metric in SIDES.items():
            for protocol, buckets in histograms.by_protocol(text, metric).items():
                sums = found.setdefault((side, protocol), {})
                for bound, count in buckets.items():
                    sums[bound] = sums.get(bound, 0.0) + count
    return found


def summarise(now: Scrape, before: Scrape, elapsed_s: float) -> list[dict[str, Any]]:
    """Request rate and percentiles between two scrapes, by side and protocol."""
    rows = []
    for (side, protocol), buckets in sorted(now.items()):
        counts = histograms.increase(buckets, before.get((side, protocol), {}))
        if counts is None or (side, protocol) not in before or not counts["+Inf"]:
            continue
        p50, p99 = (histograms.quantile(counts, q) for q in (0.5, 0.99))
        rows.append(
            {
                "side": side,
                "protocol": protocol,
                "per_s": round(counts["+Inf"] / elapsed_s, 1),
                "p50_ms": None if p50 is None else round(p50.s * 1000, 3),
                "p99_ms": None if p99 is None else round(p99.s * 1000, 3),
            }
        )
    return rows


class Scraper:
    """Scrapes periodically in a thread and keeps the summaries of the last minutes."""

    def __init__(
        self, targets: Callable[[], list[str]], interval_s: float = SCRAPE_INTERVAL_S
    ) -> None:
        """`targets` is called before each scrape."""
        self._targets = targets
        self._interval_s = interval_s
        self._scrapes: deque[tuple[float, Scrape]] = deque()
        self._points: deque[dict[str, Any]] = deque(maxlen=int(HISTORY_S / interval_s))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def document(self) -> bytes:
        """The summaries as the page polls them."""
        return json.dumps({"window_s": WINDOW_S, "points": list(self._points)}).encode()

    def _run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._stopped.wait(self._interval_s):
                now_s, now = time.monotonic(), scrape(self._targets(), session)
                self._scrapes.append((now_s, now))
                while now_s - self._scrapes[0][0] > WINDOW_S:
                    self._scrapes.popleft()
                then_s, then = self._scrapes[0]
                rows = summarise(now, then, now_s - then_s) if now_s > then_s else []
                self._points.append({"at": round(time.time(), 1), "rows": rows})


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, scraper: Scraper, *more: Any) -> None:
        self._scraper = scraper
        super().__init__(*more)

    def do_GET(self) -> None:
        match self.path:
            case "/":
                page = resources.files("monitoring") / "live_page.html"
                self._answer(200, "text/html; charset=utf-8", page.read_bytes())
            case "/points":
                self._answer(200, "application/json", self._scraper.document())
            case _:
                self._answer(404, "text/plain", b"not found\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: the page polls every second."""


def serve(scraper: Scraper, host: str, port: int) -> ThreadingHTTPServer:
    """Bind the page's server; the caller runs it."""
    return ThreadingHTTPServer((host, port), partial(_Handler, scraper))


def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.live_page", description=__doc__)
    parser.add_argument("--port", type=int, default=9292, help="port of the page on 127.0.0.1")
    targets = Path(os.environ.get("SELDON_HOME") or ".seldon") / "targets.json"  # of make deploy
    parser.add_argument(
        "--targets",
        type=Path,
        default=targets,
        help=f"Prometheus file_sd targets, default: {targets}",
    )
    parser.add_argument(
        "--loadtest", default=f"127.0.0.1:{LOADTEST_PORT}", help="HOST:PORT of its metrics"
    )
    options = parser.parse_args()
    scraper = Scraper(lambda: scrape_targets(options.targets, options.loadtest))
    try:
        server = serve(scraper, "127.0.0.1", options.port)
    except (OSError, OverflowError) as error:
        sys.exit(f"error: --port is {options.port}, expected a free port: {error}")
    scraper.start()
    sys.stderr.write(f"http://127.0.0.1:{options.port} until Ctrl-C\n")
    if not options.targets.exists():
        sys.stderr.write(f"note: {options.targets} does not exist; run make deploy\n")
    with suppress(KeyboardInterrupt):
        server.serve_forever()
    scraper.stop()


if __name__ == "__main__":
    main()
