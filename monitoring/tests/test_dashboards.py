"""The dashboards: schema, content, layout, queries, and a push over HTTP."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import combinations, product
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring import dashboards, grafana, rules
from monitoring.grafana import GrafanaRefused

TOKEN = "a-token"
PROMTOOL = shutil.which("promtool")


# Words that Grafana, Envoy, Prometheus and load testing tools use.
TITLE_WORDS = (
    "overview requests request rate error ratio p50 p90 p99 p99.9 latency in-flight status code "
    "response class client variation hop protocol server servers queue time inference (compute) "
    "batch size cpu usage utilization resident memory model version uptime generator valid load "
    "breakdown offered achieved failed dispatch lag downstream upstream connections gateway "
    "retries timeouts circuit-breaker overflows envoy saturation by and per"
)
UNITS = {"s", "ms", "reqps", "percentunit", "bytes", "short"}
STATS = ["Request rate", "Error ratio", "p99 latency", "In-flight requests"]

every_dashboard = pytest.mark.parametrize(
    "board", dashboards.DASHBOARDS, ids=lambda board: str(board.uid)
)


def document(board: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    read: dict[str, Any] = json.loads(dashboards.to_json(board))
    return read


def panels_of(board: Dashboard) -> list[dict[str, Any]]:
    """All panels without the rows."""
    return [panel for panel in document(board)["panels"] if panel["type"] != "row"]


def identifiers(board: Dashboard) -> set[str]:
    """The variables that the panels' queries use."""
    found: set[str] = set()
    for _, expr in dashboards.queries(board):
        found.update(Template(expr).get_identifiers())
    return found


@every_dashboard
def test_json_round_trips_through_grafanas_types(board: Dashboard) -> None:
    text = dashboards.to_json(board)
    read = Dashboard.from_json(json.loads(text))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == json.loads(text)
    targets = [target["expr"] for panel in panels_of(board) for target in panel["targets"]]
    assert targets == [expr for _, expr in dashboards.queries(board)]


def test_uids_and_titles_are_unique() -> None:
    boards = dashboards.DASHBOARDS
    assert len({b.uid for b in boards}) == len({b.title for b in boards}) == len(boards)


@every_dashboard
def test_every_panel_has_a_title_in_known_words_a_unit_and_a_description(board: Dashboard) -> None:
    for row in document(board)["panels"]:
        assert set(row["title"].lower().split()) <= set(TITLE_WORDS.split()), row["title"]
    titles = [(panel["title"], panel["type"]) for panel in panels_of(board)]
    assert len(set(titles)) == len(titles)
    for panel in panels_of(board):
        unit = panel["fieldConfig"]["defaults"].get("unit")
        if panel["type"] == "heatmap":
            unit = panel["options"]["yAxis"]["unit"]
        assert unit in UNITS, panel["title"]
        # What it shows, then what to do.
        assert len(re.findall(r"[.:;](?: |$)", panel["description"])) >= 2, panel["title"]
        assert max(map(len, re.split(r"[.;:] ", panel["description"]))) < 160, panel["title"]


@every_dashboard
def test_the_first_row_is_stats_with_thresholds(board: Dashboard) -> None:
    row, *panels = document(board)["panels"]
    assert row["title"] == "Overview"
    top = [panel for panel in panels if panel["gridPos"]["y"] == 1]
    expected = [*STATS, "Generator valid"] if board.uid == "load-test" else STATS
    assert [panel["title"] for panel in top] == expected
    assert sum(panel["gridPos"]["w"] for panel in top) == 24
    for panel in top:
        assert panel["type"] == "stat"
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None
        bounds = [step["value"] for step in steps[1:]]
        assert bounds
        assert bounds == sorted(bounds)
        if "red" in [step["color"] for step in steps]:
            assert "Red: " in panel["description"]


@every_dashboard
def test_panels_do_not_overlap_and_fit_the_grid(board: Dashboard) -> None:
    taken: dict[str, set[tuple[int, int]]] = {}
    for number, panel in enumerate(document(board)["panels"]):
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
        taken[f"{number} {panel['title']}"] = set(cells)
    overlapping = [pair for pair in combinations(taken, 2) if taken[pair[0]] & taken[pair[1]]]
    assert overlapping == []
    height = max(y for cells in taken.values() for _, y in cells) + 1
    assert sum(map(len, taken.values())) == 24 * height  # no gap either


@every_dashboard
def test_links_lead_to_the_other_dashboards_with_time_range_and_variables(board: Dashboard) -> None:
    links = document(board)["links"]
    others = {f"/d/{one.uid}": one.title for one in dashboards.DASHBOARDS if one.uid != board.uid}
    assert {link["url"]: link["title"] for link in links} == others
    assert all(link["keepTime"] and link["includeVars"] for link in links)


@every_dashboard
def test_every_variable_selects_many_or_all_and_is_used(board: Dashboard) -> None:
    variables = {one["name"]: one for one in document(board)["templating"]["list"]}
    assert variables.pop("source")["type"] == "datasource"
    assert {"protocol", "variation", "hop"} <= set(variables)
    for variable in variables.values():
        assert variable["multi"]
        assert variable["includeAll"]
        assert variable["allValue"] == dashboards.ALL
    assert identifiers(board) - {"__interval", "__rate_interval"} == set(variables)
    assert variables["hop"]["query"].split(",") == list(rules.HOPS)


@pytest.mark.skipif(
    PROMTOOL is None,
    reason="promtool is not installed: apt-get install prometheus has it",
)
def test_every_query_parses_with_one_several_and_all_values(tmp_path: Path) -> None:
    values: list[dict[str, str]] = [
        {},
        {"protocol": "rest", "variation": "a", "hop": "server", "cluster": "rest_a"},
        {"protocol": "(rest|grpc)", "variation": "(a|b)", "hop": "(client|server)"},
    ]
    queries = [expr for board in dashboards.DASHBOARDS for _, expr in dashboards.queries(board)]
    queries += [annotation.expr for annotation in dashboards.ANNOTATIONS]
    exprs = [dashboards.interpolate(expr, **chosen) for expr in queries for chosen in values]
    parsed = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": parsed}]}))
    done = subprocess.run(
        [str(PROMTOOL), "check", "rules", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(exprs)} rules found" in done.stdout


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
    assert set(taken) == {board.uid for board in dashboards.DASHBOARDS}
    assert taken["gateway"] == document(dashboards.gateway())
    assert TOKEN not in done.stdout


def test_what_goes_wrong_is_one_sentence(running: tuple[str, dict[str, Any]]) -> None:
    url, _ = running
    page = [dashboards.to_json(dashboards.gateway())]
    with pytest.raises(GrafanaRefused, match=r"GRAFANA_TOKEN is rejected by .* with 401"):
        grafana.push(url, "wrong", page)
    with pytest.raises(GrafanaRefused, match=r"GRAFANA_URL is http://127\.0\.0\.1:1, which"):
        grafana.push("http://127.0.0.1:1", TOKEN, page)
    with pytest.raises(GrafanaRefused, match="rejects the dashboard Gateway with 412"):
        grafana.push(f"{url}/elsewhere", TOKEN, page)
