"""`python -m monitoring.live_page`: client and server side by side while a load test runs.

For a machine without Grafana. It reads the servers' /metrics and the load test's own, every second,
and shows p50 and p99 of the last ten seconds.
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

EVERY_S = 1.0
WINDOW_S = 10.0
KEPT_S = 300.0
TIMEOUT_S = 2.0
SIDES = {"client": LOADTEST_DURATION, "server": REQUEST_DURATION}

Reading: TypeAlias = dict[tuple[str, str], Buckets]  # by side and protocol


def addresses(targets_file: Path, loadtest: str) -> list[str]:
    """Where metrics are now: the servers that the file names, and a load test if one runs."""
    groups: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        groups = json.loads(targets_file.read_text(encoding="utf-8"))
    return [*(target for group in groups for target in group["targets"]), loadtest]


def read(places: Iterable[str], session: requests.Session) -> Reading:
    """Every histogram of both sides, a protocol's servers added up, without who does not answer."""
    found: Reading = {}
    for place in places:
        try:
            text = session.get(f"http://{place}/metrics", timeout=TIMEOUT_S).text
        except requests.RequestException:
            continue
        for side, metric in SIDES.items():
            for protocol, buckets in histograms.by_protocol(text, metric).items():
                sums = found.setdefault((side, protocol), {})
                for bound, count in buckets.items():
                    sums[bound] = sums.get(bound, 0.0) + count
    return found


def point(now: Reading, before: Reading, over_s: float) -> list[dict[str, Any]]:
    """Each side's rate and percentiles between two readings, milliseconds."""
    rows = []
    for (side, protocol), buckets in sorted(now.items()):
        counts = histograms.since(buckets, before.get((side, protocol), {}))
        if counts is None or (side, protocol) not in before or not counts["+Inf"]:
            continue
        p50, p99 = (histograms.quantile(counts, q) for q in (0.5, 0.99))
        rows.append(
            {
                "side": side,
                "protocol": protocol,
                "per_s": round(counts["+Inf"] / over_s, 1),
                "p50_ms": None if p50 is None else round(p50.s * 1000, 3),
                "p99_ms": None if p99 is None else round(p99.s * 1000, 3),
            }
        )
    return rows


class Watch:
    """Reads every second in a thread of its own, and keeps the last minutes' points."""

    def __init__(self, places: Callable[[], list[str]], every_s: float = EVERY_S) -> None:
        """`places` gives the addresses that are read, each time anew."""
        self._places = places
        self._every_s = every_s
        self._readings: deque[tuple[float, Reading]] = deque()
        self._points: deque[dict[str, Any]] = deque(maxlen=int(KEPT_S / every_s))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def document(self) -> bytes:
        """What the page asks for."""
        return json.dumps({"window_s": WINDOW_S, "points": list(self._points)}).encode()

    def _run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._over.wait(self._every_s):
                now_s, now = time.monotonic(), read(self._places(), session)
                self._readings.append((now_s, now))
                while now_s - self._readings[0][0] > WINDOW_S:
                    self._readings.popleft()
                then_s, then = self._readings[0]
                rows = point(now, then, now_s - then_s) if now_s > then_s else []
                self._points.append({"at": round(time.time(), 1), "rows": rows})


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, watch: Watch, *more: Any) -> None:
        self._watch = watch
        super().__init__(*more)

    def do_GET(self) -> None:
        match self.path:
            case "/":
                page = resources.files("monitoring") / "live_page.html"
                self._answer(200, "text/html; charset=utf-8", page.read_bytes())
            case "/points":
                self._answer(200, "application/json", self._watch.document())
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
        """Say nothing: the page asks every second."""


def serve(watch: Watch, host: str, port: int) -> ThreadingHTTPServer:
    """The page's server, bound; the caller lets it run."""
    return ThreadingHTTPServer((host, port), partial(_Handler, watch))


def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.live_page", description=__doc__)
    parser.add_argument("--port", type=int, default=9292, help="of this machine")
    targets = Path(os.environ.get("SELDON_HOME") or ".seldon") / "targets.json"  # of make deploy
    parser.add_argument("--targets", type=Path, default=targets, help=f"default: {targets}")
    parser.add_argument("--loadtest", default=f"127.0.0.1:{LOADTEST_PORT}", help="HOST:PORT")
    options = parser.parse_args()
    watch = Watch(lambda: addresses(options.targets, options.loadtest))
    try:
        server = serve(watch, "127.0.0.1", options.port)
    except (OSError, OverflowError) as error:
        sys.exit(f"error: port {options.port} (--port) cannot be had: {error}")
    watch.start()
    sys.stderr.write(f"http://127.0.0.1:{options.port} until Ctrl-C\n")
    if not options.targets.exists():
        sys.stderr.write(f"note: there is no {options.targets} yet: make deploy writes it\n")
    with suppress(KeyboardInterrupt):
        server.serve_forever()
    watch.stop()


if __name__ == "__main__":
    main()
