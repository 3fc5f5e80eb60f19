"""`python -m serving_grpc` as an operator starts it: real processes, the released model."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

import seldon_pb2
from polling import eventually
from serving_core.digits import held_out

MODEL = Path(__file__).parents[2] / "models" / "deep_mnist" / "1"
CLASSIFY = "/io.seldon.api.rpc.Seldon/Classify"
DIGITS = held_out()


class Stack:
    """One running `python -m serving_grpc`."""

    def __init__(self, log: Path, **environ: str) -> None:
        self.log = log
        settings = {
            "MODEL_FOLDER": str(MODEL),
            "GRPC_PORT": "0",
            "GRPC_METRICS_PORT": "0",
            "GRPC_WORKERS": "2",
            "GRPC_GRACE_S": "5",
            "TMPDIR": str(log.parent),  # a test's end kills: what that leaves goes with the test
        }
        with log.open("a") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving_grpc"],
                env=os.environ | settings | environ,
                stderr=stderr,
            )
        self.parent = psutil.Process(self.process.pid)

    def ports(self) -> re.Match[str] | None:
        assert self.process.poll() is None, self.log.read_text()
        return re.search(r"gRPC on \S+:(\d+), metrics on \S+:(\d+)", self.log.read_text())

    def _announced(self) -> re.Match[str]:
        ports = self.ports()
        assert ports is not None, self.log.read_text()
        return ports

    @property
    def port(self) -> int:
        return int(self._announced()[1])

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._announced()[2]}{path}", timeout=10
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def ready(self) -> bool:
        return bool(self.ports()) and self.get("/health/ready")[0] == 200

    def workers(self) -> list[psutil.Process]:
        return self.parent.children()

    def served(self) -> float:
        """Calls counted over all workers, living and dead."""
        counts = re.findall(r"^seldon_requests_total\{.*\} (\S+)$", self.get("/metrics")[1], re.M)
        return sum(map(float, counts))

    def metrics_dir(self) -> Path:
        return Path(self.workers()[0].environ()["PROMETHEUS_MULTIPROC_DIR"])

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


def channel(port: int) -> grpc.Channel:
    return grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
    )


def request(number: int) -> bytes:
    message = seldon_pb2.ClassificationRequest()
    message.meta.puid = str(number)
    message.data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=DIGITS.images[number]))
    return message.SerializeToString()


def classify(over: grpc.Channel, number: int) -> int:
    """Send one held-out digit; return the class that the answer gives most."""
    answer = over.unary_unary(CLASSIFY, None, None)(request(number), timeout=10)
    reply = seldon_pb2.ClassificationReply.FromString(answer)
    assert reply.meta.puid == str(number)
    assert sum(result.prediction for result in reply.predictions) == pytest.approx(1, abs=1e-5)
    return int(np.argmax([result.prediction for result in reply.predictions]))


def is_served(port: int) -> bool:
    """Whether a new connection gets an answer."""
    with channel(port) as over, suppress(grpc.RpcError):
        classify(over, 0)
        return True
    return False


@pytest.fixture
def launch(tmp_path) -> Iterator[Callable[..., Stack]]:
    """Start a stack; by default wait until it is ready. No process of it outlives the test."""
    stacks: list[Stack] = []

    def launch(wait: bool = True, **environ: str) -> Stack:
        stacks.append(Stack(tmp_path / f"stderr-{len(stacks)}", **environ))
        if wait:
            eventually(stacks[-1].ready, within_s=20)
        return stacks[-1]

    yield launch
    for stack in stacks:
        with suppress(psutil.NoSuchProcess):
            for process in [*stack.parent.children(recursive=True), stack.parent]:
                process.kill()
        stack.process.wait()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes
    )


def test_held_out_digits_are_recognised_and_counted_exactly_over_the_workers(launch):
    stack = launch()
    right = 0
    for first in range(0, 200, 10):  # a connection each, so that both workers get some
        with channel(stack.port) as over:
            for number in range(first, first + 10):
                right += classify(over, number) == DIGITS.labels[number]
    assert right >= 194
    assert stack.served() == 200
    assert len(list(stack.metrics_dir().glob("counter_*.db"))) == 2


def test_what_a_worker_is_started_with_is_known_to_grpc_and_the_operators_wins(launch):
    stack = launch()
    assert is_served(stack.port)
    workers = stack.workers()
    assert len(workers) == 2
    for worker in workers:
        assert worker.environ()["GRPC_EXPERIMENTS"] == "-event_engine_listener"
    assert "experiment" not in stack.log.read_text().lower()  # grpc tells of one it does not know
    other = launch(GRPC_WORKERS="1", GRPC_EXPERIMENTS="")
    assert other.workers()[0].environ()["GRPC_EXPERIMENTS"] == ""


def test_only_the_workers_load_grpc_and_the_engine(launch):
    stack = launch()

    def loaded(process: psutil.Process) -> set[str]:
        files = " ".join(mapped.path for mapped in process.memory_maps())
        return {name for name in ("cygrpc", "ai_edge_litert") if name in files}

    assert loaded(stack.parent) == set()
    assert [loaded(worker) for worker in stack.workers()] == [{"cygrpc", "ai_edge_litert"}] * 2


def test_the_metrics_port_serves_liveness_readiness_and_metrics(launch):
    stack = launch(wait=False)
    eventually(stack.ports)
    assert stack.get("/health/live") == (200, "live\n")
    assert stack.get("/other")[0] == 404
    eventually(stack.ready)
    assert 'seldon_model_info{model="deep_mnist"' in stack.get("/metrics")[1]


def test_sigterm_ends_every_process_and_leaves_nothing(launch):
    stack = launch()
    assert is_served(stack.port)
    workers, metrics_dir = stack.workers(), stack.metrics_dir()
    assert len(workers) == 2
    assert stack.stop() == 0
    assert gone(workers)
    assert not metrics_dir.exists()


def test_a_stopping_server_accepts_calls_for_the_drain_delay(launch):
    stack = launch(GRPC_WORKERS="1", GRPC_DRAIN_DELAY_S="2")
    port = stack.port
    began = time.monotonic()
    stack.process.terminate()
    while time.monotonic() - began < 1.5:
        assert is_served(port)
    assert stack.process.wait(10) == 0
    assert time.monotonic() - began > 2


def test_under_sigterm_a_caller_is_refused_at_most_once_and_never_with_our_error(launch):
    stack = launch(GRPC_WORKERS="1")
    port = stack.port
    failures: list[grpc.StatusCode] = []
    answered: list[int] = []

    def call() -> None:
        with channel(port) as over:
            try:
                while stack.process.poll() is None:
                    answered.append(classify(over, len(answered) % 200))
            except grpc.RpcError as error:
                failures.append(error.code())

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    eventually(lambda: len(answered) > 50)
    assert stack.stop() == 0
    for caller in callers:
        caller.join()
    assert set(failures) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert len(failures) <= 4


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_worker_is_started_again_and_its_counts_stay(count, launch):
    stack = launch(GRPC_WORKERS=str(count))
    assert is_served(stack.port)
    victim, *others = stack.workers()
    victim.kill()
    # Until the pool has seen it, the dead one is among its children.
    noticed = f"worker {victim.pid} ended by signal 9; starting another"
    eventually(lambda: noticed in stack.log.read_text(), within_s=5)
    eventually(lambda: is_served(stack.port), within_s=5)
    eventually(lambda: len(stack.workers()) == count, within_s=5)
    assert set(others) < set(stack.workers())
    assert stack.served() == 2
    assert stack.get("/health/ready")[0] == 200


def test_no_worker_outlives_a_killed_parent_and_the_next_binds_at_once(launch):
    stack = launch()
    port, workers, metrics_dir = stack.port, stack.workers(), stack.metrics_dir()
    assert len(workers) == 2
    assert is_served(port)
    stack.parent.kill()
    stack.process.wait()
    successor = launch(wait=False, GRPC_PORT=str(port))
    eventually(lambda: gone(workers), within_s=5)
    assert not metrics_dir.exists()
    eventually(successor.ready)
    assert successor.port == port
    assert is_served(port)


def failure(stack: Stack) -> str:
    """The one sentence that a stack which cannot start leaves behind."""
    assert stack.process.wait(20) == 1
    log = stack.log.read_text()
    assert "Traceback" not in log
    sentence = log.splitlines()[-1]
    assert sentence.startswith("serving-grpc: ")
    return sentence


def test_a_wrong_setting_is_one_sentence(launch):
    assert "GRPC_WORKERS is 'none', expected an integer" in failure(
        launch(wait=False, GRPC_WORKERS="none")
    )


def test_a_missing_model_folder_is_one_sentence(launch, tmp_path):
    folder = tmp_path / "nowhere"
    assert f"model folder {folder} does not exist" in failure(
        launch(wait=False, MODEL_FOLDER=str(folder))
    )


def copied_model(tmp_path: Path, content: bytes, checksum: bool) -> Path:
    """The released model with other content in its file, with the checksum of that or not."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(content)
    description = json.loads((MODEL / "model.json").read_text())
    files = {"model.tflite": description["files"]["model.tflite"]}
    if checksum:
        files["model.tflite"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(description | {"files": files}))
    return folder


def test_a_wrong_checksum_is_one_sentence(launch, tmp_path):
    content = bytearray((MODEL / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    folder = copied_model(tmp_path, bytes(content), checksum=False)
    assert f"{folder}/model.tflite fails its checksum" in failure(
        launch(wait=False, MODEL_FOLDER=str(folder))
    )


def test_a_model_that_only_the_engine_can_refuse_is_one_sentence(launch, tmp_path):
    folder = copied_model(tmp_path, b"TFL3 but not really", checksum=True)
    assert f"LiteRT cannot load {folder}/model.tflite" in failure(
        launch(wait=False, MODEL_FOLDER=str(folder))
    )


@pytest.mark.parametrize("variable", ["GRPC_PORT", "GRPC_METRICS_PORT"])
def test_a_port_in_use_is_one_sentence(variable, launch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sentence = failure(launch(wait=False, **{variable: str(port)}))
    assert f"port {port} of 127.0.0.1 is in use by another server" in sentence


def test_a_second_stack_on_the_same_port_is_refused_and_the_first_goes_on(launch):
    stack = launch()
    sentence = failure(launch(wait=False, GRPC_PORT=str(stack.port)))
    assert f"port {stack.port} of 127.0.0.1 is in use by another server" in sentence
    assert is_served(stack.port)


def test_a_model_that_is_gone_when_the_last_worker_dies_ends_the_stack(launch, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    stack = launch(MODEL_FOLDER=str(folder), GRPC_WORKERS="1")
    shutil.rmtree(folder)
    stack.workers()[0].send_signal(signal.SIGKILL)
    assert f"model folder {folder} does not exist" in failure(stack)


def model_name(port: int) -> str:
    with channel(port) as over:
        reply = over.unary_unary(CLASSIFY, None, None)(request(0), timeout=10, wait_for_ready=True)
    return str(seldon_pb2.ClassificationReply.FromString(reply).meta.modelName)


def test_sighup_replaces_the_workers_without_a_failed_call(launch, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    stack = launch(MODEL_FOLDER=str(folder), GRPC_WORKERS="1")
    (old,) = stack.workers()
    assert model_name(stack.port) == "deep_mnist"
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description | {"name": "renamed"}))
    failures: list[grpc.StatusCode] = []
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            try:
                model_name(stack.port)
            except grpc.RpcError as error:
                failures.append(error.code())

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    stack.process.send_signal(signal.SIGHUP)
    eventually(lambda: not old.is_running(), within_s=20)
    over.set()
    for caller in callers:
        caller.join()
    # A call on its way when a port closes is lost, one a caller at most.
    assert len(failures) <= 2
    assert model_name(stack.port) == "renamed"
    assert stack.get("/health/ready")[0] == 200
    assert "reloaded" in stack.log.read_text()


def test_a_second_sighup_serves_what_changed_during_the_first(launch, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    stack = launch(MODEL_FOLDER=str(folder), GRPC_WORKERS="1")
    description = json.loads((folder / "model.json").read_text())
    for name in ("first", "second"):
        stack.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(stack.workers()) == 2, within_s=20)
        (folder / "model.json").write_text(json.dumps(description | {"name": name}))
    eventually(lambda: stack.log.read_text().count("reloaded") == 2, within_s=30)
    assert model_name(stack.port) == "second"


def test_sighup_with_a_broken_model_keeps_the_workers(launch, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    stack = launch(MODEL_FOLDER=str(folder))
    workers = stack.workers()
    (folder / "model.tflite").write_bytes(b"broken")
    stack.process.send_signal(signal.SIGHUP)
    eventually(lambda: "not reloaded: " in stack.log.read_text(), within_s=20)
    eventually(lambda: set(stack.workers()) == set(workers))
    assert "fails its checksum" in stack.log.read_text()
    assert is_served(stack.port)


@pytest.mark.skipif(not shutil.which("h2load"), reason="needs h2load (Debian: nghttp2-client)")
@pytest.mark.parametrize("path", ["/no.Such/Method", "/grpc.health.v1.Health/Check"])
@pytest.mark.parametrize("experiments", ["", "-event_engine_listener"])
def test_calls_of_other_methods_do_not_keep_predictions_waiting(
    launch, tmp_path: Path, path: str, experiments: str
):
    """A loop that takes all events before it scores is never done with them."""
    body = tmp_path / "body"
    body.write_bytes(b"\0\0\0\0\0")
    stack = launch(GRPC_WORKERS="1", GRPC_EXPERIMENTS=experiments)
    flood = subprocess.Popen(
        [
            *("h2load", "--clients=4", "--max-concurrent-streams=100", "--duration=60"),
            *(f"--data={body}", "--header=content-type: application/grpc"),
            *("--header=te: trailers", f"http://127.0.0.1:{stack.port}{path}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with channel(stack.port) as over:
            # Each within ten seconds; without a flood it is a millisecond.
            told = [classify(over, number) for number in range(20)]
        assert flood.poll() is None, "the flood ended before the predictions did"
    finally:
        flood.kill()
        flood.wait()
    assert told == DIGITS.labels[:20].tolist()
