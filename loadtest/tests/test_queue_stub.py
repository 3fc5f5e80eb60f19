"""The stub whose queue is known: what it states is what it did, for both protocols."""

import http.client
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import requests
from queue_simulation import departures, poisson

from loadtest import answers, payloads, wire
from loadtest.answers import GatewayTiming, ServerTiming
from loadtest.dialects import SeldonPayload

pytestmark = pytest.mark.truth

PROTOCOLS = ("rest", "grpc")
SERVICE_S = 0.005
REQUESTS = 100
ROUNDED_MS = 0.002  # of four durations of whole microseconds

Send = Callable[[int], "Answered"]


@dataclass(frozen=True)
class Answered:
    """One answer, and when its request was sent and the answer was there."""

    sent: float
    ended: float
    server: ServerTiming
    gateway: GatewayTiming
    digit: int


@pytest.fixture(scope="module")
def sent() -> payloads.Payloads:
    return payloads.digits()


@pytest.fixture
def connect(sent: payloads.Payloads) -> Iterator[Callable[..., Send]]:
    """A function that sends the instance of an index to a stub and reads the answer."""
    with ExitStack() as channels:
        yield (
            lambda protocol, stub: (
                rest(sent, stub) if protocol == "rest" else over_grpc(sent, stub, channels)
            )
        )


def rest(sent: payloads.Payloads, stub: Any) -> Send:
    before, after = wire.rest_path("js-key")

    def send(index: int) -> Answered:
        path = f"{before}{sent.url_json[index]}{after}{index}"
        begun = time.monotonic()
        with closing(http.client.HTTPConnection("127.0.0.1", stub.port, timeout=20)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            ended = time.monotonic()
        document = answers.from_jsonp(response.status, body)
        return answered(
            begun,
            ended,
            response.headers[answers.SERVER_TIMING],
            response.headers[answers.GATEWAY_TIMING],
            *answers.judge(answers.of_document(response.status, document), str(index)),
        )

    return send


def over_grpc(sent: payloads.Payloads, stub: Any, channels: ExitStack) -> Send:
    channel = channels.enter_context(wire.new_channel(f"127.0.0.1:{stub.grpc_port}"))
    classify = wire.predict_on(channel, SeldonPayload(sent))

    def send(index: int) -> Answered:
        request = wire.with_puid(str(index), sent.request_data[index])
        begun = time.monotonic()
        reply, call = classify.with_call(
            request, timeout=20, metadata=wire.oauth_metadata("token-1")
        )
        ended = time.monotonic()
        return answered(
            begun,
            ended,
            answers.in_metadata(call.trailing_metadata(), answers.SERVER_TIMING),
            answers.in_metadata(call.initial_metadata(), answers.GATEWAY_TIMING),
            *answers.judge(answers.of_reply(reply), str(index)),
        )

    return send


def answered(
    begun: float, ended: float, server: str | None, gateway: str | None, digit: int
) -> Answered:
    server_timing, gateway_timing = answers.server_timing(server), answers.gateway_timing(gateway)
    assert server_timing is not None
    assert gateway_timing is not None
    return Answered(begun, ended, server_timing, gateway_timing, digit)


def send_at(send: Send, times: Sequence[float]) -> list[Answered]:
    """Send at these times, each in a thread of its own."""
    begin = time.monotonic()

    def at(index: int) -> Answered:
        time.sleep(max(begin + times[index] - time.monotonic(), 0))
        return send(index)

    with ThreadPoolExecutor(len(times)) as pool:
        return list(pool.map(at, range(len(times))))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_is_the_queue_it_says_it_is(
    protocol: str, start_queue: Any, connect: Any, sent: payloads.Payloads
) -> None:
    stub = start_queue("--service-ms", str(SERVICE_S * 1000))
    times = poisson(160, REQUESTS / 160, np.random.default_rng(5))
    found = send_at(connect(protocol, stub), times.tolist())
    visits = stub.visits()
    assert len(visits) == len(found) == len(times)
    assert {visit["protocol"] for visit in visits} == {protocol}
    # First come, first served, each for 5 ms: Lindley's recursion from the arrivals it saw.
    arrived = np.array([visit["arrived"] for visit in visits])
    assert (np.diff(arrived) >= 0).all()
    due = departures(arrived, np.full(len(arrived), SERVICE_S))
    assert [visit["due"] for visit in visits] == pytest.approx(due)
    assert all(visit["answered"] >= visit["due"] for visit in visits)
    # What the answers state is that, and adds up.
    stated = sorted(one.server.queue_ms for one in found)
    assert stated == pytest.approx(
        sorted((visit["begun"] - visit["arrived"]) * 1000 for visit in visits), abs=ROUNDED_MS
    )
    for one in found:
        assert one.server.compute_ms == pytest.approx(SERVICE_S * 1000)
        assert one.server.total_ms >= one.server.queue_ms + one.server.compute_ms - ROUNDED_MS
        assert one.gateway.in_us == 0
        assert one.gateway.upstream_us / 1000 == pytest.approx(one.server.total_ms, abs=ROUNDED_MS)
        assert (one.ended - one.sent) * 1000 >= one.server.total_ms - ROUNDED_MS
    assert sent.labels is not None
    assert [one.digit for one in found] == list(sent.labels[: len(found)])
    counts = stub.counts()
    assert counts["requests"] == counts["answered"] == len(times)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_injected_delay_is_stated_where_it_is(
    protocol: str, start_queue: Any, connect: Any
) -> None:
    stub = start_queue("--service-ms", "1", "--gateway-ms", "20", "--server-ms", "30")
    send = connect(protocol, stub)
    for index in range(3):
        one = send(index)
        assert one.gateway.in_us == pytest.approx(20_000, abs=1)
        assert one.server.compute_ms == pytest.approx(1)
        assert one.server.queue_ms == pytest.approx(0)
        assert one.server.total_ms >= 31 - ROUNDED_MS  # not the gateway's 20
        assert one.gateway.upstream_us / 1000 == pytest.approx(one.server.total_ms, abs=ROUNDED_MS)
        assert (one.ended - one.sent) * 1000 >= 51 - ROUNDED_MS
    visits = stub.visits()
    assert len(visits) == 3
    for visit in visits:
        assert visit["queued"] - visit["arrived"] == pytest.approx(0.020)
        assert visit["due"] - visit["done"] == pytest.approx(0.030)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stopped_stub_loses_nothing(protocol: str, start_queue: Any, connect: Any) -> None:
    stub = start_queue("--service-ms", "1")
    send = connect(protocol, stub)
    send(0)
    stub.process.send_signal(signal.SIGSTOP)
    stopped = psutil.Process(stub.process.pid)
    while stopped.status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)
    went_on = []

    def go_on() -> None:
        went_on.append(time.monotonic())
        stub.process.send_signal(signal.SIGCONT)

    waker = threading.Timer(0.5, go_on)
    waker.start()
    found = send_at(send, [0.004 * index for index in range(50)])
    waker.join()
    assert min(one.ended for one in found) > went_on[0]
    visits = stub.visits()[1:]
    assert len(visits) == len(found) == 50
    # All came in after the stop, and were then served one by one.
    begun = [visit["begun"] for visit in visits]
    assert (np.diff(begun) >= 0.001 - 1e-9).all()
    assert begun[0] > went_on[0]  # one clock for all processes of a machine
    assert stub.counts()["answered"] == 51


def test_several_servers_work_side_by_side(start_queue: Any, connect: Any) -> None:
    stub = start_queue("--service-ms", "40", "--servers", "3")
    send_at(connect("rest", stub), [0.0] * 7)
    visits = stub.visits()
    assert len(visits) == 7
    for index, visit in enumerate(visits):
        others = [one["done"] for one in visits[:index]]
        free = sorted(others)[-3] if len(others) >= 3 else 0.0
        assert visit["begun"] == pytest.approx(max(visit["arrived"], free))


def test_beyond_its_capacity_requests_queue(start_queue: Any, connect: Any) -> None:
    stub = start_queue("--service-ms", "20", "--servers", "100", "--capacity", "200")
    send_at(connect("rest", stub), [0.0] * 40)
    begun = [visit["begun"] for visit in stub.visits()]
    assert len(begun) == 40
    assert (np.diff(begun) >= 1 / 200 - 1e-9).all()


def test_both_protocols_share_one_queue(start_queue: Any, connect: Any) -> None:
    stub = start_queue("--service-ms", "5")
    sends = [connect(protocol, stub) for protocol in PROTOCOLS]
    send_at(lambda index: sends[index % 2](index), [0.0] * 20)
    visits = stub.visits()
    assert len(visits) == 20
    assert {visit["protocol"] for visit in visits} == set(PROTOCOLS)
    assert (np.diff([visit["begun"] for visit in visits]) >= 0.005 - 1e-9).all()


def test_keys_are_asked_for(start_queue: Any) -> None:
    stub = start_queue()
    base = f"http://127.0.0.1:{stub.port}"
    keys = {"consumer_key": "all-key", "consumer_secret": "all-secret"}
    assert requests.get(f"{base}/token", params=keys, timeout=5).json()["access_token"] == "token-1"
    wrong = {**keys, "consumer_secret": "x"}
    assert requests.get(f"{base}/token", params=wrong, timeout=5).status_code == 401
    asked = {"consumer_key": "x", "json": "{}", "jsonpCallback": "j", "puid": "1"}
    assert "error_id" in requests.get(f"{base}/js/predict", params=asked, timeout=5).text
    assert requests.get(f"{base}/health", timeout=5).status_code == 200
    assert requests.get(f"{base}/else", timeout=5).status_code == 404
    with wire.new_channel(f"127.0.0.1:{stub.grpc_port}") as channel:
        classify = wire.predict_on(channel, SeldonPayload(payloads.digits()))
        with pytest.raises(grpc.RpcError) as refused:
            classify(b"", timeout=5, metadata=wire.oauth_metadata("x"))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    counts = stub.counts()
    assert (counts["refused"], counts["requests"], counts["tokens"]) == (2, 0, 1)
