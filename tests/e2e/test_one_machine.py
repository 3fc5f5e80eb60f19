"""The main job on this machine, with the real parts, from deploy to undeploy."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import requests
from google.protobuf.any_pb2 import Any

import seldon_pb2
import seldon_pb2_grpc
from local_stack import CLIENT, ROOT, Stack
from model_runtime.digits import held_out

pytestmark = pytest.mark.timeout(300)

DIGITS = held_out()
# The promise; a shared machine may be slower than the one that was measured.
# Far above what it takes: how long that is depends on what else the machine does.
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def own_stack(new_stack: Callable[[], Stack]) -> Iterator[Stack]:
    stack = new_stack()
    stack.deploy()
    yield stack
    stack.undeploy()
    assert not stack.processes()


def predict_rest(stack: Stack, key: str, index: int = 0) -> int:
    text = json.dumps({"data": DIGITS.images[index].tolist()})
    parameters = {"consumer_key": key, "json": text}
    answer = requests.get(f"{stack.url}/js/predict", params=parameters, timeout=10)
    if answer.status_code == 200:
        assert len(answer.json()["predictions"]) == 10
    return answer.status_code


def predict_grpc(stack: Stack, token: str, index: int = 0) -> grpc.StatusCode:
    data = Any()
    data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=DIGITS.images[index]))
    with grpc.insecure_channel(stack.grpc_target) as channel:
        try:
            reply = seldon_pb2_grpc.SeldonStub(channel).Classify(
                seldon_pb2.ClassificationRequest(data=data),
                metadata=[("oauth_token", token)],
                timeout=10,
            )
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        assert len(reply.predictions) == 10
        return grpc.StatusCode.OK


def eventually(condition: Callable[[], bool], what: str = "", limit_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if condition():
                return
        except requests.RequestException:
            pass
        assert time.monotonic() < deadline, f"not within {limit_s} s {what}"
        threading.Event().wait(0.02)


def test_a_second_deploy_changes_nothing(own_stack: Stack) -> None:
    before = {process.pid for process in own_stack.processes()}
    own_stack.deploy()
    assert {process.pid for process in own_stack.processes()} == before


def test_status_lists_every_service_and_is_content(own_stack: Stack) -> None:
    text = own_stack.run(sys.executable, "-m", "deploy", "status").stdout
    for name in ("envoy", "control-plane", "tensorflow-deep-mnist"):
        assert name in text


@pytest.mark.parametrize("test_type", ["js-predict", "grpc-predict"])
def test_a_load_test_without_a_failure(own_stack: Stack, test_type: str, tmp_path: Path) -> None:
    own_stack.run(
        "launch-locust-load-test",
        "--seldon-client",
        CLIENT,
        "--test-type",
        test_type,
        "--locust-hatch-rate",
        "50",
        "--output",
        str(tmp_path),
        LOADTEST_DURATION="5",
        LOADTEST_WARMUP="1",
    )
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["valid"]
    assert summary["failures"] == 0
    assert summary["requests"] > 100
    text = json.dumps(summary)
    shown = own_stack.credentials()
    assert not [s for s in (shown.secret, shown.key, shown.js_key) if s in text]
    assert str(own_stack.home) not in text
    assert str(ROOT) not in text
    assert (folder / "report.html").stat().st_size > 1000


def test_a_new_client_is_soon_known(own_stack: Stack) -> None:
    own_stack.run(
        *("seldon-cli", "client", "--action", "setup"),
        *("--db-name", "ClientDB", "--client-name", "second"),
    )
    shown = own_stack.credentials("second")
    # Known, though without a model of its own yet: the gateway says so instead of refusing it.
    known = lambda: predict_rest(own_stack, shown.js_key) == 503  # noqa: E731
    eventually(known)


def test_a_disabled_client_is_soon_refused(own_stack: Stack) -> None:
    shown = own_stack.credentials()
    token = own_stack.token()
    assert predict_rest(own_stack, shown.js_key) == 200
    assert predict_grpc(own_stack, token) == grpc.StatusCode.OK
    own_stack.run("seldon-cli", "client", "--action", "disable", "--client-name", CLIENT)
    try:
        eventually(lambda: predict_rest(own_stack, shown.js_key) == 401)
        eventually(lambda: predict_grpc(own_stack, token) == grpc.StatusCode.UNAUTHENTICATED)
    finally:
        own_stack.run("seldon-cli", "client", "--action", "enable", "--client-name", CLIENT)
    eventually(lambda: predict_rest(own_stack, shown.js_key) == 200)


def test_known_clients_go_on_without_the_control_plane(own_stack: Stack) -> None:
    shown, token = own_stack.credentials(), own_stack.token()
    stopped = [p for p in own_stack.processes() if "control_plane" in " ".join(p.cmdline())]
    assert stopped
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        ended = time.monotonic() + 4
        while time.monotonic() < ended:
            assert predict_rest(own_stack, shown.js_key) == 200
            assert predict_grpc(own_stack, token) == grpc.StatusCode.OK
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)


def test_a_failed_start_leaves_the_old_variations_serving(own_stack: Stack, tmp_path: Path) -> None:
    shown = own_stack.credentials()
    for folder, ratio, message in (
        (str(tmp_path / "nowhere"), "1.0", "does not exist"),
        (str(tmp_path), "1.0", "model.json"),
        (str(ROOT / "models/deep_mnist/1"), "0.9", "0.9"),
    ):
        failed = own_stack.run(
            *("start-microservice", "--type", "prediction", "--client", CLIENT),
            *("-p", "other-mnist", folder, "rest", ratio),
            check=False,
        )
        assert failed.returncode != 0
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
        assert predict_rest(own_stack, shown.js_key) == 200


def test_any_killed_process_comes_back(own_stack: Stack) -> None:
    shown = own_stack.credentials()

    def serving() -> bool:
        return (
            predict_rest(own_stack, shown.js_key) == 200
            and predict_grpc(own_stack, own_stack.token()) == grpc.StatusCode.OK
        )

    assert serving()
    # The supervisor last: what it started goes on without it, which the next test looks at.
    commands = {process: " ".join(process.cmdline()) for process in own_stack.processes()}
    victims = {p: command for p, command in commands.items() if "supervisord" not in command}
    assert len(victims) >= 6
    for victim, what in victims.items():
        if not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE:
            continue  # a child of one that was killed before
        victim.send_signal(signal.SIGKILL)
        psutil.wait_procs([victim], timeout=5)

        def served() -> bool:
            try:
                return serving()
            except AssertionError:
                return False

        eventually(served, f"after the end of {what}")
    eventually(
        lambda: (
            own_stack.run(sys.executable, "-m", "deploy", "status", check=False).returncode == 0
        ),
        limit_s=60,
    )


def test_a_killed_supervisor_is_said_and_cleaned_up(own_stack: Stack) -> None:
    shown = own_stack.credentials()
    (supervisor,) = [p for p in own_stack.processes() if "supervisord" in " ".join(p.cmdline())]
    supervisor.send_signal(signal.SIGKILL)
    psutil.wait_procs([supervisor], timeout=5)
    assert predict_rest(own_stack, shown.js_key) == 200
    for verb in ("status", "deploy"):
        said = own_stack.run(sys.executable, "-m", "deploy", verb, check=False)
        assert said.returncode != 0
        assert "undeploy" in said.stderr + said.stdout
        assert "Traceback" not in said.stderr
    own_stack.run(sys.executable, "-m", "deploy", "undeploy")
    assert not own_stack.processes()
    own_stack.deploy()
    assert predict_rest(own_stack, own_stack.credentials().js_key) == 200


def test_a_port_in_use_is_named(new_stack: Callable[[], Stack], own_stack: Stack) -> None:
    other = new_stack()
    failed = other.run(
        sys.executable,
        "-m",
        "deploy",
        "deploy",
        check=False,
        SELDON_REST_PORT=str(own_stack.rest_port),
    )
    assert failed.returncode != 0
    assert str(own_stack.rest_port) in failed.stderr
    assert "SELDON_REST_PORT" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not other.processes()


def test_no_log_holds_a_credential(own_stack: Stack) -> None:
    shown, token = own_stack.credentials(), own_stack.token()
    assert predict_rest(own_stack, shown.js_key) == 200
    assert predict_rest(own_stack, shown.key) == 401
    requests.post(f"{own_stack.url}/predict", params={"oauth_token": token}, timeout=10)
    requests.get(f"{own_stack.url}/token", params={"consumer_key": shown.key}, timeout=10)
    own_stack.run(sys.executable, "-m", "deploy", "undeploy")  # every log is flushed by now
    logs = [path for path in (own_stack.home / "logs").rglob("*") if path.is_file()]
    assert logs
    for log in logs:
        text = log.read_text(errors="replace")
        assert not [s for s in (shown.secret, shown.key, shown.js_key, token) if s in text], log
    own_stack.deploy()
