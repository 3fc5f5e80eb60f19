"""A real load, scraped by a real Prometheus: every panel of every dashboard has data."""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from local_stack import CLIENT, Stack
from monitoring import dashboards, rules
from polling import eventually
from ports import free_ports

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not installed: apt-get install prometheus has it",
    ),
]

PATIENCE_S = 120.0
LOAD = ("--locust-clients", "20", "--locust-hatch-rate", "20", "--wait", "50-100")


@pytest.fixture(scope="module")
def watched(new_stack: Callable[[], Stack]) -> Iterator[Stack]:
    """A deployed stack with a Prometheus."""
    (port,) = free_ports(6)[5:]
    stack = replace(new_stack(), prometheus_port=port)
    stack.deploy()
    yield stack
    stack.undeploy()
    assert not stack.processes()


def ask(stack: Stack, query: str) -> list[dict[str, Any]]:
    """What a query gives now, without what is no number."""
    answer = requests.get(
        f"http://127.0.0.1:{stack.prometheus_port}/api/v1/query",
        params={"query": dashboards.interpolate(query)},
        timeout=10,
    )
    document = answer.json()
    assert document["status"] == "success", (query, document)
    found: list[dict[str, Any]] = document["data"]["result"]
    return [one for one in found if math.isfinite(float(one["value"][1]))]


def load(stack: Stack, test_type: str, output: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "loadtest.cli", "--seldon-client", CLIENT),
            *("--test-type", test_type, "--warmup", "1", "--output", str(output), *options),
        ],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_panel_has_data_while_a_load_test_runs(watched: Stack, tmp_path: Path) -> None:
    wanted = {
        (board.title, title, dashboards.interpolate(expr, hop=hop))
        for board in dashboards.DASHBOARDS
        for title, expr in dashboards.queries(board)
        for hop in rules.HOPS
    }
    # One load test at a time has live metrics here: the other's mark is the next test's.
    wanted |= {("all", one.name, one.expr) for one in dashboards.ANNOTATIONS if "gRPC" in one.name}
    both = '{__name__=~"hop:(client|gateway|server)_seconds:p99", protocol="grpc"}'
    other = load(
        watched, "js-predict", tmp_path / "rest", *LOAD, "--duration", "60",
        "--metrics-bind", "127.0.0.1:1",
    )  # fmt: skip
    # An open loop: it has an offered rate, and says how late it sends.
    shown = load(watched, "grpc-predict", tmp_path / "grpc", "--rate", "100", "--duration", "60")
    together: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    while (wanted or len(together) < 3) and time.monotonic() < deadline:
        wanted -= {one for one in wanted if ask(watched, one[2])}
        together |= {one["metric"]["__name__"] for one in ask(watched, both)}
        time.sleep(1)
    for process in (shown, other):
        process.terminate()
        process.communicate(timeout=30)
    assert not wanted
    # Both sides, and the gateway between, in the answer to one question.
    assert together == {rules.percentile(hop, "p99") for hop in ("client", "gateway", "server")}


def test_prometheus_counts_what_the_load_test_counts(watched: Stack, tmp_path: Path) -> None:
    total = 'sum(seldon_request_duration_seconds_count{protocol="rest"})'
    process = load(watched, "js-predict", tmp_path, *LOAD, "--duration", "3")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    (mark,) = [one.expr for one in dashboards.ANNOTATIONS if "REST" in one.name]
    assert ask(watched, mark)
    summary = json.loads((tmp_path / "latest" / "summary.json").read_text(encoding="utf-8"))
    measured = summary["server_metrics"]
    assert measured["count"] == measured["answers"]
    reading = json.loads((tmp_path / "latest" / "server_metrics.json").read_text(encoding="utf-8"))
    expected = reading["after"]["count"]  # as the load test has read it from the server itself

    def counted() -> float:
        return sum(float(one["value"][1]) for one in ask(watched, total))

    eventually(lambda: counted() >= expected, every_s=0.5)
    assert counted() == expected


@pytest.mark.parametrize(
    ("variable", "values"),
    [("protocol", ["grpc", "rest"]), ("variation", ["tensorflow-deep-mnist"]), ("cluster", None)],
)
def test_a_dashboard_variable_has_values(
    watched: Stack, variable: str, values: list[str] | None
) -> None:
    (asked,) = {
        one["query"]
        for board in dashboards.DASHBOARDS
        for one in json.loads(dashboards.to_json(board))["templating"]["list"]
        if one["name"] == variable
    }
    metric, label = asked.removeprefix("label_values(").removesuffix(")").split(", ")

    def found() -> list[str]:
        answer = requests.get(
            f"http://127.0.0.1:{watched.prometheus_port}/api/v1/label/{label}/values",
            params={"match[]": metric},
            timeout=10,
        )
        listed: list[str] = answer.json()["data"]
        return listed

    if values:
        eventually(lambda: found() == values, f"the values {values} of {variable}")
    else:
        eventually(lambda: any(one.startswith("grpc_") for one in found()), "a gRPC cluster")


def test_status_names_the_prometheus_and_its_rules_are_loaded(watched: Stack) -> None:
    assert "prometheus" in watched.run(sys.executable, "-m", "deploy", "status").stdout
    url = f"http://127.0.0.1:{watched.prometheus_port}/api/v1/rules"
    groups = requests.get(url, timeout=10).json()["data"]["groups"]
    assert {group["name"] for group in groups} == {"percentiles", "errors", "alerts"}
    assert all(rule["health"] == "ok" for group in groups for rule in group["rules"])


def test_without_the_binary_everything_else_works(new_stack: Callable[[], Stack]) -> None:
    stack = new_stack()
    path = stack.environment["PATH"].split(":")
    without = ":".join(folder for folder in path if not (Path(folder) / "prometheus").exists())
    said = stack.run(
        sys.executable, "-m", "deploy", "deploy", PATH=without, SELDON_PROMETHEUS_PORT="9190"
    ).stdout
    assert (
        "Prometheus is not started: prometheus is not on the PATH; install it (apt-get install"
        in said
    )
    assert "is predicted as" in said
    status = stack.run(sys.executable, "-m", "deploy", "status").stdout
    assert "Prometheus is not running; install it (apt-get install prometheus, or" in status
    stack.undeploy()
