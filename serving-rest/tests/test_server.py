"""The real thing: `python -m serving_rest` with the released model, spoken to over sockets."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from polling import eventually
from serving_core import Classifier, load_predictor
from serving_core.digits import held_out

MODEL = Path(__file__).parents[2] / "models" / "deep_mnist" / "1"
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
DEADLINE_S = 20.0
BACK_S = 10.0  # on an idle machine 2 s are enough


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str

    def json(self, callback: str = "") -> Any:
        text = self.text
        if callback:
            assert text.startswith(callback + "(")
            text = text[len(callback) + 1 : -1]
        return json.loads(text)

    def scores(self, callback: str = "") -> NDArray[np.float64]:
        assert self.status == 200, self.text
        return np.array([entry["prediction"] for entry in self.json(callback)["predictions"]])


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(
        self,
        method: str,
        path: str,
        body: str | bytes | Iterable[bytes] | None = None,
        **headers: str,
    ) -> Answer:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return Answer(response.status, response.headers, response.read().decode())

    def predict(self, digit: int) -> Answer:
        return self.send("POST", "/predict", document(digit), Content_Type="application/json")


@dataclass
class Running:
    """A server of ours and what it wrote."""

    process: subprocess.Popen[bytes]
    log: Path
    metrics: Path
    port: int = 0

    def client(self) -> Client:
        return Client(self.port)

    def get(self, path: str) -> Answer:
        with self.client() as client:
            return client.send("GET", path)

    def workers(self) -> set[int]:
        pid = self.process.pid
        with contextlib.suppress(OSError):
            return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
        return set()

    def both_serve(self) -> bool:
        """Whether there are two workers and each has loaded its model: then it has metrics."""
        workers = self.workers()
        files = [self.metrics / f"gauge_livesum_{pid}.db" for pid in workers]
        return len(workers) == 2 and all(file.exists() for file in files)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/health/ready").status == 200
        return False

    def count(self, name: str, **labels: str) -> float:
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            match = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
            if match and all(f'{key}="{value}"' in match[1] for key, value in labels.items()):
                total += float(match[2])
        return total


def environment(**variables: object) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("REST_", "MODEL_"))}
    return clean | {name: str(value) for name, value in variables.items()}


@contextlib.contextmanager
def running(log: Path, **variables: object) -> Iterator[Running]:
    metrics = log.with_suffix(".metrics")
    settings = {
        "MODEL_FOLDER": MODEL,
        "REST_PORT": 0,
        "REST_WORKERS": 2,
        "REST_DRAIN_DELAY_S": 0,
        "REST_METRICS_DIR": metrics,
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving_rest"],
            env=environment(**settings | variables),
            stdout=stream,
            stderr=stream,
        )
    server = Running(process, log, metrics)
    try:
        eventually(lambda: port_of(server) is not None, "it listens")
        server.port = port_of(server) or 0
        eventually(server.is_ready, "it is ready")
        yield server
    finally:
        workers = server.workers()
        process.send_signal(signal.SIGQUIT)  # without waiting for anything
        process.wait(DEADLINE_S)
        eventually(lambda: not any(map(alive, workers)), "no worker is left")


def port_of(server: Running) -> int | None:
    text = server.log.read_text()
    assert server.process.poll() is None, text
    match = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", text)
    return int(match[1]) if match else None


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # A zombie that nobody has waited for yet is not alive.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def document(digit: int) -> str:
    return json.dumps({"data": held_out().images[digit].tolist()})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def scores() -> NDArray[np.float32]:
    """What the model says of each held-out digit, shape (200, 10)."""
    predictor = Classifier(load_predictor(MODEL))
    return np.concatenate([predictor.predict(image[np.newaxis]) for image in held_out().images])


def assert_good_request_is_served(server: Running, scores: NDArray[np.float32]) -> None:
    with server.client() as client:
        assert np.allclose(client.predict(5).scores(), scores[5], atol=1e-5)


# Predictions


@pytest.mark.parametrize("form", ["jsonp", "form", "json", "object"])
def test_held_out_digits_get_the_models_scores(
    server: Running, scores: NDArray[np.float32], form: str
) -> None:
    right = 0
    with server.client() as client:
        for digit, label in enumerate(held_out().labels):
            text = document(digit)
            callback = "j" if form == "jsonp" else ""
            if form == "jsonp":
                query = urlencode({"json": text, "jsonpCallback": "j"})
                answer = client.send("GET", f"/js/predict?{query}")
            elif form == "form":
                body = urlencode({"json": text})
                answer = client.send("POST", "/js/predict", body, **FORM)
            elif form == "object":
                values = held_out().images[digit].tolist()
                data = {f"x{index:03d}": value for index, value in enumerate(values)}
                body = json.dumps({"data": data})
                answer = client.send("POST", "/predict", body, Content_Type="application/json")
            else:
                answer = client.predict(digit)
            found = answer.scores(callback)
            assert np.allclose(found, scores[digit], atol=1e-5)
            assert abs(found.sum() - 1) < 1e-5
            right += int(found.argmax() == label)
    assert right == int((scores.argmax(axis=1) == held_out().labels).sum())


def test_alone_a_score_is_the_models_float32_to_the_last_bit(
    server: Running, scores: NDArray[np.float32]
) -> None:
    with server.client() as client:
        assert client.predict(7).scores().tolist() == scores[7].astype(np.float64).tolist()


def test_eight_callers_get_their_own_answers(server: Running, scores: NDArray[np.float32]) -> None:
    wrong: list[str] = []

    def call(caller: int) -> None:
        with server.client() as client:
            for turn in range(25):
                digit = (caller * 25 + turn) % 200
                puid = f"{caller}-{turn}"
                answer = client.send(
                    "POST",
                    f"/predict?puid={puid}",
                    document(digit),
                    Content_Type="application/json",
                )
                if answer.json()["meta"]["puid"] != puid:
                    wrong.append(puid)
                if not np.allclose(answer.scores(), scores[digit], atol=1e-5):
                    wrong.append(puid)

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_metrics_are_exact_over_all_workers(server: Running) -> None:
    labels = {"client": "metrics_test", "variation": "v7", "code": "200"}

    def call() -> None:
        for turn in range(10):
            with server.client() as client:  # a new connection: any worker may take it
                client.send(
                    "POST",
                    "/predict",
                    document(turn),
                    x_seldon_client="metrics_test",
                    x_seldon_variation="v7",
                )

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.count("seldon_requests_total", **labels) == 80
    for name in ("request_duration_seconds", "compute_duration_seconds", "batch_size"):
        assert server.count(f"seldon_{name}_count", variation="v7") == 80
    assert server.count("seldon_requests_in_flight") == 0
    assert server.count("seldon_model_info", model="deep_mnist") == 1


# Bad requests over the wire


def test_a_url_of_64_kib_is_served(server: Running, scores: NDArray[np.float32]) -> None:
    query = "json=" + quote(document(5).replace(",", " , "), safe="") + "&padding=" + "x" * 66_000
    with server.client() as client:
        assert np.allclose(client.send("GET", f"/predict?{query}").scores(), scores[5], atol=1e-5)
        answer = client.send("POST", "/predict", document(5), X_Padding="y" * 66_000)
        assert answer.status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_10_mb_is_413(
    server: Running, scores: NDArray[np.float32], chunked: bool
) -> None:
    block = b" " * 100_000
    with server.client() as client:
        body: bytes | Iterator[bytes] = iter([block] * 100) if chunked else block * 100
        answer = client.send("POST", "/predict", body, Content_Type="application/json")
    assert answer.status == 413
    assert answer.json()["error_id"] == 44
    assert "1048576" in answer.json()["error_msg"]
    assert_good_request_is_served(server, scores)


def test_head_and_body_come_in_one_segment(server: Running) -> None:
    body = document(3).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        for _ in range(20):
            connection.sendall(head.encode() + body)
            answer = connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["custom"] is None


def plain(digit: int, puid: str, **headers: str) -> bytes:
    """One request, as it goes over the wire."""
    body = document(digit).encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    lines += f"Content-Length: {len(body)}\r\n"
    return f"POST /predict?puid={puid} HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode() + body


def answers(connection: socket.socket, count: int) -> list[dict[str, object]]:
    """The documents of so many answers, one after the other."""
    stream = connection.makefile("rb")
    found = []
    for _ in range(count):
        assert stream.readline().startswith(b"HTTP/1.1 ")
        length = 0
        while (line := stream.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        found.append(json.loads(stream.read(length)))
    return found


def puid_of(answer: dict[str, object]) -> object:
    meta = answer["meta"]
    assert isinstance(meta, dict)
    return meta["puid"]


def test_requests_sent_ahead_are_answered_in_order(server: Running) -> None:
    # Plain ones, a chunked one, and bad ones that are refused before they are scored.
    chunked = b"POST /predict?puid=c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    text = document(4).encode()
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
    bad = b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        sent = plain(1, "a") + plain(2, "b") + chunked + plain(3, "d") + bad * 300 + plain(5, "e")
        threading.Thread(target=connection.sendall, args=(sent,)).start()
        found = answers(connection, 305)
    assert [puid_of(answer) for answer in (*found[:4], found[-1])] == ["a", "b", "c", "d", "e"]
    assert [answer["error_id"] for answer in found[4:-1]] == [38] * 300


def test_more_than_is_read_at_once_is_answered_in_order(server: Running) -> None:
    # Bad ones are refused before they are scored: they must not overtake.
    sent, expected = b"", []
    for number in range(60):
        if number % 5 == 4:
            sent += b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n{"
            expected.append("refused")
        else:
            sent += plain(number, f"p{number}")
            expected.append(f"p{number}")
    assert len(sent) > 3 * (1 << 16)
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        threading.Thread(target=connection.sendall, args=(sent,)).start()
        found = answers(connection, 60)
    assert ["refused" if "error_id" in each else puid_of(each) for each in found] == expected


def test_a_caller_that_does_not_close_keeps_nobody_waiting(tmp_path: Path) -> None:
    old = b"GET /health/live HTTP/1.0\r\n\r\n"
    with running(tmp_path / "log", REST_WORKERS=1) as server, contextlib.ExitStack() as stack:
        idle = []
        for sent in (old, b"no http at all\r\n\r\n", plain(1, "last", Connection="close")) * 10:
            address = ("127.0.0.1", server.port)
            connection = stack.enter_context(socket.create_connection(address, DEADLINE_S))
            connection.sendall(sent)
            idle.append(connection)
        for connection in idle:  # all are answered and closed on the server's side
            received = b""
            while data := connection.recv(1 << 16):
                received += data
            assert received.startswith(b"HTTP/1.")
        # Each would have held the loop for two seconds: in all three times the client's patience.
        with server.client() as client:
            assert client.predict(1).status == 200
        workers = server.workers()
        eventually(lambda: server.count("seldon_requests_in_flight") == 0, "nothing is in flight")
        assert server.workers() == workers


def test_of_callers_that_come_at_once_none_waits_for_the_others_next_requests(
    tmp_path: Path,
) -> None:
    """Taken in one in a turn, the last had their first answer when others had their twentieth."""
    request = (
        f"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(document(3))}\r\n\r\n{document(3)}"
    ).encode()
    callers = 48
    answered = [0] * callers
    connections: list[socket.socket] = []
    with (
        running(tmp_path / "log", REST_WORKERS=1, REST_SILENCE_S=60) as server,
        selectors.DefaultSelector() as ready,
        contextlib.ExitStack() as stack,
    ):
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)  # so that all are there when it looks
        for caller in range(callers):
            address = ("127.0.0.1", server.port)
            connection = stack.enter_context(socket.create_connection(address, DEADLINE_S))
            connection.sendall(request)
            ready.register(connection, selectors.EVENT_READ, caller)
            connections.append(connection)
        os.kill(worker, signal.SIGCONT)
        while not all(answered):
            for key, _ in ready.select(DEADLINE_S):
                connection = connections[key.data]
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
                answered[key.data] += 1
                connection.sendall(request)
        assert max(answered) <= 8, answered


@pytest.mark.parametrize("piece", [1, 997])
def test_a_request_in_pieces_is_served(
    server: Running, scores: NDArray[np.float32], piece: int
) -> None:
    request = plain(6, "p" * 20)
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        slow_until = 200 if piece == 1 else len(request)
        for start in range(0, slow_until, piece):
            connection.sendall(request[start : min(start + piece, slow_until)])
            time.sleep(0.002)
        connection.sendall(request[slow_until:])
        (answer,) = answers(connection, 1)
    assert puid_of(answer) == "p" * 20


def test_a_connection_is_closed_when_the_caller_says_so(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(plain(1, "last", Connection="close"))
        assert puid_of(answers(connection, 1)[0]) == "last"
        assert connection.recv(1) == b""


def test_a_caller_that_leaves_without_its_answer_harms_nobody(
    server: Running, scores: NDArray[np.float32]
) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
            connection.sendall(plain(1, "gone") * 3)
    assert_good_request_is_served(server, scores)
    eventually(lambda: server.count("seldon_requests_in_flight") == 0, "nothing is in flight")
    assert "Traceback" not in server.log.read_text()


def test_hundreds_of_connections_are_kept(server: Running, scores: NDArray[np.float32]) -> None:
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        connections = [
            stack.enter_context(socket.create_connection(address, DEADLINE_S)) for _ in range(700)
        ]
        for turn in range(2):
            for number, connection in enumerate(connections):
                connection.sendall(plain(number % 200, f"{turn}-{number}"))
                if number % 100 == 99:  # under the queue's limit
                    for asked in range(number - 99, number + 1):
                        (answer,) = answers(connections[asked], 1)
                        assert puid_of(answer) == f"{turn}-{asked}"


def test_a_chunked_document_is_served(server: Running, scores: NDArray[np.float32]) -> None:
    text = document(5).encode()
    chunks = iter([text[:1000], text[1000:]])
    with server.client() as client:
        answer = client.send("POST", "/predict", chunks, Content_Type="application/json")
    assert np.allclose(answer.scores(), scores[5], atol=1e-5)


RAW = [
    (b'POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{"data":1', 400, 38),
    (
        b"GET /predict?json=%7B%22data%22%3A%22/etc/passwd%22%7D HTTP/1.1\r\nHost: h\r\n\r\n",
        400,
        40,
    ),
    (
        b"POST /predict HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        400,
        38,
    ),
    (b"GET /predict?json=%ff HTTP/1.1\r\nHost: h\r\n\r\n", 400, 38),
    (b"no http at all\r\n\r\n", 400, 13),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, 13),
    (
        b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        13,
    ),
    (b"GET /" + b"x" * 1_100_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, 44),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", 431, 44),
    (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 130 + b"\r\n", 431, 44),
    (b"GET / HTTP/1.1\r\nHost: h\r\n" + (b"A: " + b"y" * 90_000 + b"\r\n") * 13, 431, 44),
    (b"GET / HTTP/1.1\nHost: h\n\n", 400, 13),
    (b"BREW /predict HTTP/1.1\r\nHost: h\r\n\r\n", 405, 11),
]


@pytest.mark.parametrize(("request_bytes", "status", "error_id"), RAW, ids=range(len(RAW)))
def test_what_is_wrong_on_the_wire_is_answered_in_json(
    server: Running,
    scores: NDArray[np.float32],
    request_bytes: bytes,
    status: int,
    error_id: int,
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request_bytes)
        response = http.client.HTTPResponse(connection)
        response.begin()
        document = json.loads(response.read())
    assert (response.status, document["http_response"]) == (status, status)
    assert document["error_id"] == error_id
    assert response.headers["Content-Type"] == "application/json"
    assert_good_request_is_served(server, scores)


def test_a_caller_that_stalls_is_let_go(tmp_path: Path, scores: NDArray[np.float32]) -> None:
    with running(tmp_path / "log", REST_READ_TIMEOUT_S=0.3) as server:
        address = ("127.0.0.1", server.port)
        with (
            socket.create_connection(address, DEADLINE_S) as in_its_head,
            socket.create_connection(address, DEADLINE_S) as in_its_body,
            socket.create_connection(address, DEADLINE_S) as before_it,
        ):
            in_its_head.sendall(b"POST /predict HTTP/1.1\r\nHo")
            in_its_body.sendall(b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{")
            assert_good_request_is_served(server, scores)
            response = http.client.HTTPResponse(in_its_body)
            response.begin()
            assert (response.status, json.loads(response.read())["error_id"]) == (408, 43)
            assert in_its_head.recv(100) == b""
            # It has sent nothing yet: it may still ask.
            before_it.sendall(b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n")
            assert before_it.recv(100).startswith(b"HTTP/1.1 200")
        assert "Traceback" not in server.log.read_text()


def test_clients_mistakes_are_not_in_our_log(server: Running) -> None:
    for body in ("{", "[1]", "", document(5)[:-20]):
        with server.client() as client:
            assert client.send("POST", "/predict", body).status == 400
    text = server.log.read_text()
    assert "Traceback" not in text
    assert "[ERROR]" not in text


def test_the_master_has_no_engine_loaded(server: Running) -> None:
    def maps(pid: int) -> str:
        return Path(f"/proc/{pid}/maps").read_text()

    assert "litert" not in maps(server.process.pid)
    workers = server.workers()
    assert workers
    assert all("litert" in maps(pid) for pid in workers)


# Processes that die or stop


def test_a_killed_worker_is_replaced_and_the_other_serves_on(
    tmp_path: Path, scores: NDArray[np.float32]
) -> None:
    with running(tmp_path / "log") as server:
        eventually(server.both_serve, "two workers serve")
        before = server.workers()
        with server.client() as client:
            for digit in range(20):
                assert client.predict(digit).status == 200
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        assert_good_request_is_served(server, scores)
        eventually(lambda: victim not in server.workers(), "the killed one is gone")
        eventually(server.both_serve, "both serve", killed + BACK_S - time.monotonic())
        assert server.count("seldon_requests_in_flight") == 0
        assert server.count("seldon_requests_total", code="200") >= 20


def test_connections_that_come_at_once_are_shared(tmp_path: Path) -> None:
    with running(tmp_path / "log", REST_SILENCE_S=60) as server, contextlib.ExitStack() as callers:

        def call(count: int) -> dict[int, int]:
            """So many at once, and what each worker has when all are taken."""
            wanted = sum(connections(server).values()) + count
            for _ in range(count):
                address = ("127.0.0.1", server.port)
                callers.enter_context(socket.create_connection(address, DEADLINE_S))
            eventually(lambda: sum(connections(server).values()) == wanted, f"{wanted} are taken")
            return connections(server)

        def both_take() -> bool:
            """A worker that has loaded its model may not take any yet."""
            found = call(1).values()
            return len(found) == 2 and min(found) > 0

        eventually(server.both_serve, "two workers serve")
        eventually(both_take, "both take connections")
        found = call(24).values()
        assert min(found) >= sum(found) / 3  # a half, but for a machine at work elsewhere
        # Nobody waits for one that has fewer and does not come.
        silent, other = sorted(server.workers())
        os.kill(silent, signal.SIGSTOP)
        try:
            before = connections(server)[other]
            assert call(12)[other] == before + 12
        finally:
            os.kill(silent, signal.SIGCONT)
        before = connections(server)[silent]
        assert call(8)[silent] >= before + 5
        # Nor for one that is gone; its successor has none.
        os.kill(other, signal.SIGKILL)
        eventually(lambda: other not in server.workers(), "the killed one is gone")
        eventually(server.both_serve, "two workers serve again")
        eventually(both_take, "both take connections again")
        before = connections(server)[silent]
        assert call(10)[silent] <= before + 3


def connections(server: Running) -> dict[int, int]:
    """How many each worker has."""
    found = {}
    for pid in server.workers():
        with contextlib.suppress(psutil.Error):  # it has just ended
            open_now = psutil.Process(pid).net_connections("tcp")
            found[pid] = sum(
                one.status == psutil.CONN_ESTABLISHED and one.laddr.port == server.port
                for one in open_now
            )
    return found


def test_idle_workers_are_kept_and_a_silent_one_is_replaced(
    tmp_path: Path, scores: NDArray[np.float32]
) -> None:
    with running(tmp_path / "log", REST_SILENCE_S=1) as server:
        eventually(server.both_serve, "two workers serve")
        before = server.workers()
        with server.client() as client:
            for digit in range(12):  # over three times the allowed silence, mostly idle
                assert client.predict(digit).status == 200
                time.sleep(0.3)
        assert server.workers() == before
        silent = min(before)
        os.kill(silent, signal.SIGSTOP)
        eventually(lambda: silent not in server.workers() and server.both_serve(), "it is replaced")
        assert_good_request_is_served(server, scores)


def test_a_folder_gone_bad_keeps_the_worker_that_serves(
    tmp_path: Path, scores: NDArray[np.float32]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.json", "model.tflite"):
        shutil.copy(MODEL / name, folder)
    with running(tmp_path / "log", MODEL_FOLDER=folder) as server:
        eventually(server.both_serve, "two workers serve")
        (folder / "model.tflite").rename(folder / "elsewhere")
        os.kill(min(server.workers()), signal.SIGKILL)
        eventually(lambda: "no new worker: " in server.log.read_text(), "the reason is in the log")
        assert_good_request_is_served(server, scores)
        (folder / "elsewhere").rename(folder / "model.tflite")
        eventually(server.both_serve, "two workers serve again")
        assert_good_request_is_served(server, scores)


def test_after_a_killed_master_the_next_one_serves_on_the_same_port(
    tmp_path: Path, scores: NDArray[np.float32]
) -> None:
    with running(tmp_path / "log") as server:
        eventually(server.both_serve, "two workers serve")
        workers = server.workers()
        with server.client() as kept:  # a connection as the gateway's, kept over the kill
            assert kept.predict(1).status == 200
            server.process.kill()
            server.process.wait(DEADLINE_S)
            killed = time.monotonic()
            with running(tmp_path / "log2", REST_PORT=server.port) as successor:
                assert time.monotonic() - killed < BACK_S
                assert_good_request_is_served(successor, scores)
                eventually(lambda: not any(map(alive, workers)), "the old workers end")


def test_sigterm_is_not_ready_then_no_new_callers_then_drained(
    tmp_path: Path, scores: NDArray[np.float32]
) -> None:
    text = document(9).encode()
    head = (
        b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(text)
    )
    with running(tmp_path / "log", REST_DRAIN_DELAY_S=0.5) as server, server.client() as kept:
        assert kept.predict(1).status == 200
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as slow:
            slow.sendall(head + text[:100])
            eventually(lambda: server.count("seldon_requests_in_flight") == 1, "one is in flight")
            server.process.terminate()
            eventually(lambda: server.get("/health/ready").status == 503, "it is not ready")
            assert_good_request_is_served(server, scores)  # but still serves
            eventually(lambda: refuses(server.port), "new callers are refused")
            last = kept.predict(1)  # may have been on its way: served, and told to go
            assert (last.status, last.headers["Connection"]) == (200, "close")
            assert server.process.poll() is None
            slow.sendall(text[100:])
            response = http.client.HTTPResponse(slow)
            response.begin()
            answer = Answer(response.status, response.headers, response.read().decode())
        assert np.allclose(answer.scores(), scores[9], atol=1e-5)
        assert server.process.wait(DEADLINE_S) == 0


def test_sighup_replaces_the_workers_and_every_request_is_served(
    tmp_path: Path, scores: NDArray[np.float32]
) -> None:
    with running(tmp_path / "log") as server:
        eventually(server.both_serve, "two workers serve")
        before = server.workers()
        reloaded = threading.Event()
        wrong: list[str] = []

        def call(digit: int) -> None:
            while not reloaded.is_set():
                try:
                    with server.client() as client:
                        answer = client.predict(digit)
                    if not np.allclose(answer.scores(), scores[digit], atol=1e-5):
                        wrong.append(answer.text)
                except OSError as error:
                    wrong.append(repr(error))

        callers = [threading.Thread(target=call, args=(digit,)) for digit in range(4)]
        for caller in callers:
            caller.start()
        with server.client() as kept:
            assert kept.predict(1).status == 200
            server.process.send_signal(signal.SIGHUP)

            def closes() -> bool:
                """The old worker responds with Connection: close."""
                return kept.predict(1).headers["Connection"] == "close"

            eventually(closes, "the old worker closes the connection")
        eventually(lambda: not before & server.workers(), "the old workers are gone")
        eventually(server.both_serve, "two new workers serve")
        reloaded.set()
        for caller in callers:
            caller.join()
        assert wrong == []
        assert_good_request_is_served(server, scores)


def test_sighup_with_a_broken_model_keeps_the_workers(
    tmp_path: Path, scores: NDArray[np.float32]
) -> None:
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    with running(tmp_path / "log", MODEL_FOLDER=folder) as server:
        workers = server.workers()
        (folder / "model.tflite").write_bytes(b"broken")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "not reloaded: " in server.log.read_text(), "the refusal is logged")
        assert "fails its checksum" in server.log.read_text()
        assert server.workers() == workers
        assert_good_request_is_served(server, scores)


# Makes the engine one that takes long: Python imports this at its start.
SLOW_ENGINE = """
import time
from serving_core.engines.litert import LiteRTPredictor
quick = LiteRTPredictor.predict
def predict(self, inputs):
    time.sleep(0.4)
    return quick(self, inputs)
LiteRTPredictor.predict = predict
"""


def test_with_an_engine_that_takes_long_others_are_told_their_deadline_and_all_is_drained(
    tmp_path: Path, scores: NDArray[np.float32]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_ENGINE)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with running(tmp_path / "log", PYTHONPATH=path, REST_WORKERS=1) as server:
        found: list[Answer] = []

        def ask(deadline_ms: str) -> None:
            with server.client() as client:
                headers = {"x_envoy_expected_rq_timeout_ms": deadline_ms}
                found.append(client.send("POST", "/predict", document(7), **headers))

        callers = [threading.Thread(target=ask, args=(ms,)) for ms in ("100", *["20000"] * 5)]
        for caller in callers:
            caller.start()

        def arrived() -> float:
            ended = server.count("seldon_requests_total")
            return ended + server.count("seldon_requests_in_flight")

        eventually(lambda: arrived() >= 6, "all have arrived")
        server.process.terminate()
        for caller in callers:
            caller.join()
        assert sorted(answer.status for answer in found) == [200] * 5 + [504]
        for answer in found:
            if answer.status == 200:
                assert np.allclose(answer.scores(), scores[7], atol=1e-5)
        assert server.process.wait(DEADLINE_S) == 0
        assert "Traceback" not in server.log.read_text()


def refuses(port: int) -> bool:
    with contextlib.closing(socket.socket()) as connection:
        return connection.connect_ex(("127.0.0.1", port)) != 0


def test_an_end_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path / "log", TMPDIR=tmp_path, REST_METRICS_DIR="", REST_WORKERS=1) as server:
        assert list(tmp_path.glob("serving-rest-*/*.db"))
        server.process.terminate()
        assert server.process.wait(DEADLINE_S) == 0
        assert list(tmp_path.glob("serving-rest-*")) == []


def test_metrics_of_an_earlier_run_are_taken_away(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (metrics / "counter_1.db").write_bytes(b"of another time")
    with running(tmp_path / "log", REST_METRICS_DIR=metrics, REST_WORKERS=1) as server:
        assert not (metrics / "counter_1.db").exists()
        assert server.count("seldon_model_info") == 1


# Starts that cannot be


def start_error(**variables: object) -> str:
    """The one sentence of a server that does not start."""
    end = subprocess.run(
        [sys.executable, "-m", "serving_rest"],
        env=environment(**{"REST_PORT": 0, "REST_WORKERS": 1} | variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert end.returncode == 1
    assert "Traceback" not in end.stderr
    sentences = [line for line in end.stderr.splitlines() if line.startswith("serving-rest: ")]
    assert len(sentences) == 1, end.stderr
    return sentences[0]


def test_a_wrong_variable_is_one_sentence() -> None:
    assert "MODEL_FOLDER is not set" in start_error()
    assert "REST_PORT is 'abc'" in start_error(MODEL_FOLDER=MODEL, REST_PORT="abc")
    assert "engine is 'caffe'" in start_error(MODEL_FOLDER=MODEL, MODEL_ENGINE="caffe")
    assert "REST_METRICS_DIR" in start_error(MODEL_FOLDER=MODEL, REST_METRICS_DIR="/proc/no/such")


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    assert "does not exist" in start_error(MODEL_FOLDER=tmp_path / "missing")
    assert "no model.json" in start_error(MODEL_FOLDER=tmp_path)


def test_a_wrong_checksum_is_one_sentence(tmp_path: Path) -> None:
    shutil.copy(MODEL / "model.json", tmp_path)
    (tmp_path / "model.tflite").write_bytes((MODEL / "model.tflite").read_bytes()[:-1] + b"!")
    assert "fails its checksum" in start_error(MODEL_FOLDER=tmp_path)


def test_a_file_that_no_engine_reads_is_one_sentence(tmp_path: Path) -> None:
    description = json.loads((MODEL / "model.json").read_bytes())
    content = b"not a model" * 1000
    description["files"] = {"model.tflite": hashlib.sha256(content).hexdigest()}
    (tmp_path / "model.json").write_text(json.dumps(description))
    (tmp_path / "model.tflite").write_bytes(content)
    assert "LiteRT cannot load" in start_error(MODEL_FOLDER=tmp_path)


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = start_error(MODEL_FOLDER=MODEL, REST_PORT=port)
    assert f"port {port}: the port is in use" in error


def test_an_address_of_another_machine_is_one_sentence() -> None:
    assert "192.0.2.1" in start_error(MODEL_FOLDER=MODEL, REST_HOST="192.0.2.1")
