"""Every load generator on both servers with the null model: what is good, and what is not."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from bench.cases import OUR_FORMS, Form, ServerKind, Way
from bench.checking import check
from bench.errors import BenchError
from bench.load import H2LOAD, OWN, WRK, Load, run, tool_for
from bench.processes import usable_cores
from bench.requesting import Digits, RequestSet, ours, ours_v2
from bench.run import NULL_DIGIT
from bench.server_metrics import read
from bench.servers import HOST, Ports, Running, our_plan, running
from ports import free_ports

pytestmark = pytest.mark.stack

MODEL = Path(__file__).parents[2] / "models/deep_mnist/1"
DIGITS = Digits.of_model(MODEL)
BAD = {
    Way.POST: b'{"data": [1]}',
    Way.JSONP: b"/js/predict?json={}&jsonpCallback=j",
    Way.GRPC: b"not a message",
}
VARIANTS = [
    pytest.param(way, form, id=name) for forms in OUR_FORMS.values() for name, way, form in forms
]
TOOLS = [
    pytest.param(
        *variant.values,
        tool,
        id=f"{variant.id}-{tool}",
        marks=pytest.mark.skipif(
            tool != OWN and shutil.which(tool) is None, reason=f"{tool} is not installed"
        ),
    )
    for variant in VARIANTS
    for tool in (H2LOAD if variant.values[0] is Way.GRPC else WRK, OWN)
]


@pytest.fixture(scope="module")
def ports() -> Ports:
    return Ports(*free_ports(3))


@pytest.fixture(scope="module")
def servers(ports: Ports, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    log = tmp_path_factory.mktemp("logs")
    rest, rpc = ServerKind("null-rest", "rest", null=True), ServerKind("n", "grpc", null=True)
    with (
        running(
            "rest",
            our_plan(rest, ports, MODEL),
            asking_of(Way.POST, ports),
            usable_cores(),
            log / "rest",
        ) as first,
        running(
            "grpc",
            our_plan(rpc, ports, MODEL),
            asking_of(Way.GRPC, ports),
            usable_cores(),
            log / "grpc",
        ) as second,
    ):
        yield {"rest": first, "grpc": second}


def asking_of(way: Way, ports: Ports, form: Form = Form.OURS) -> RequestSet:
    port = ports.grpc if way is Way.GRPC else ports.rest
    if form is Form.OURS:
        return ours(way, HOST, port, DIGITS, answered=NULL_DIGIT)
    return ours_v2(form, HOST, port, DIGITS, answered=NULL_DIGIT)


def load(
    tool: str, request_set: RequestSet, answer_bytes: int, folder: Path, threads: int = 1
) -> Load:
    return run(tool, request_set, 2, 1, answer_bytes, folder, usable_cores(), threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("way", "form", "tool"), TOOLS)
def test_good_answers_are_counted_and_timed(
    servers: dict[str, Running],
    ports: Ports,
    tmp_path: Path,
    way: Way,
    form: Form,
    tool: str,
    threads: int,
) -> None:
    request_set = asking_of(way, ports, form)
    url = servers["grpc" if way is Way.GRPC else "rest"].metrics_url
    assert url is not None
    size = check(request_set)
    before = read(url)
    seen = load(tool, request_set, size, tmp_path, threads)
    counted = read(url).since(before)
    assert seen.failures == counted.refused == 0
    # What is in flight at the end is answered, and not counted.
    assert seen.requests <= sum(counted.by_batch.values()) <= seen.requests + 4
    assert 0 < seen.p50_ms <= seen.p99_ms
    assert seen.seconds >= 0.9
    assert 0 < seen.client_busy <= 2.5
    assert seen.client_cpu_ms > 0


@pytest.mark.parametrize(("way", "form", "tool"), TOOLS)
@pytest.mark.usefixtures("servers")
def test_refusals_are_failures(
    ports: Ports, tmp_path: Path, way: Way, form: Form, tool: str
) -> None:
    good = asking_of(way, ports, form)
    size = check(good)
    bodies = (BAD[way],) if tool == H2LOAD else (BAD[way], good.bodies[0])
    mixed = replace(good, bodies=bodies, digits=(NULL_DIGIT,) * len(bodies))
    seen = load(tool, mixed, size, tmp_path)
    assert seen.failures > 0
    if tool == H2LOAD:
        assert seen.failures == seen.requests


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(("way", "form"), VARIANTS)
def test_a_wrong_digit_is_found_before_anything_is_measured(
    ports: Ports, way: Way, form: Form
) -> None:
    request_set = asking_of(way, ports, form)
    with pytest.raises(BenchError, match="is 3, expected 5"):
        check(replace(request_set, digits=(5,) * len(request_set.bodies)))


@pytest.mark.usefixtures("servers")
def test_the_null_model_passes_validation_queue_and_timing(ports: Ports) -> None:
    url = f"http://{HOST}:{ports.rest}/js/predict"
    refused = requests.post(url, json={"data": [1, 2]}, timeout=10)
    assert refused.status_code == 400
    answered = requests.post(url, data=asking_of(Way.POST, ports).bodies[0], timeout=10)
    for part in ("queue;dur=", "compute;dur=", "total;dur="):
        assert part in answered.headers["Server-Timing"]
    assert (
        'seldon_batch_size_bucket{le="1.0"'
        in requests.get(f"http://{HOST}:{ports.rest}/metrics", timeout=10).text
    )


def test_a_server_that_ends_says_why(tmp_path: Path, ports: Ports) -> None:
    kind = ServerKind("rest", "rest")
    with (
        pytest.raises(BenchError, match="rest exited with status 1: serving-rest: model folder"),
        running(
            "rest",
            our_plan(kind, Ports(*free_ports(3)), tmp_path / "none"),
            asking_of(Way.POST, Ports(*free_ports(3))),
            usable_cores(),
            tmp_path / "log",
        ),
    ):
        pass


@pytest.mark.usefixtures("servers")
def test_a_port_in_use_is_reported(tmp_path: Path, ports: Ports) -> None:
    plan = our_plan(ServerKind("rest", "rest"), ports, MODEL)
    request_set = asking_of(Way.POST, ports)
    with (
        pytest.raises(BenchError, match=f"rest did not start: port {ports.rest} is in use"),
        running("rest", plan, request_set, usable_cores(), tmp_path / "log"),
    ):
        pass


def test_without_the_tools_our_own_generator_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert {tool_for(way, own=False) for way in Way} == {OWN}
