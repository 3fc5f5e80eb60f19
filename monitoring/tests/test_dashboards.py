"""The dashboards: Grafana's own types, and a push over HTTP."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring import dashboards, grafana
from monitoring.grafana import GrafanaRefused

TOKEN = "a-token"


@pytest.mark.parametrize("page", dashboards.pages(), ids=lambda page: page.uid)
def test_a_dashboard_is_what_grafanas_types_say(page: dashboards.Page) -> None:
    text = dashboards.text(page)
    read = Dashboard.from_json(json.loads(text))
    again = json.dumps(read, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
    assert json.loads(again) == json.loads(text)
    assert read.title == page.title
    panels = [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert asked == [expr for _, expr in dashboards.queries(page)]
    assert all(panel["title"] for panel in panels)


def test_no_two_dashboards_have_one_name() -> None:
    pages = dashboards.pages()
    assert len({page.uid for page in pages}) == len({page.title for page in pages}) == len(pages)


class Grafana(BaseHTTPRequestHandler):
    """As far as a push needs it."""

    taken: dict[str, Any]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer(401, {"message": "Invalid API key"})
        elif self.path != "/api/dashboards/db" or not body["overwrite"]:
            self.answer(412, {"message": "a dashboard with the same uid exists"})
        else:
            self.taken[body["dashboard"]["uid"]] = body["dashboard"]
            self.answer(200, {"url": f"/d/{body['dashboard']['uid']}", "status": "success"})

    def answer(self, status: int, document: dict[str, str]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def running() -> Iterator[tuple[str, dict[str, Any]]]:
    """Its address, and what it has taken."""
    taken: dict[str, Any] = {}
    handler = type("Handler", (Grafana,), {"taken": taken})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", taken
    server.shutdown()
    server.server_close()
    thread.join()


def test_make_dashboards_pushes_all_of_them(running: tuple[str, dict[str, Any]]) -> None:
    url, taken = running
    done = subprocess.run(
        [sys.executable, "-m", "monitoring"],
        env={**os.environ, "GRAFANA_URL": url + "/", "GRAFANA_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"pushed {url}/d/load-test" in done.stdout
    assert set(taken) == {page.uid for page in dashboards.pages()}
    assert taken["gateway"] == json.loads(dashboards.text(dashboards.gateway()))
    assert TOKEN not in done.stdout


def test_what_goes_wrong_is_one_sentence(running: tuple[str, dict[str, Any]]) -> None:
    url, _ = running
    page = [dashboards.text(dashboards.gateway())]
    with pytest.raises(GrafanaRefused, match=r"refuses the token \(GRAFANA_TOKEN\)"):
        grafana.push(url, "wrong", page)
    with pytest.raises(GrafanaRefused, match=r"no Grafana answers at http://127\.0\.0\.1:1 "):
        grafana.push("http://127.0.0.1:1", TOKEN, page)
    with pytest.raises(GrafanaRefused, match="does not take Gateway: 412"):
        grafana.push(f"{url}/elsewhere", TOKEN, page)
