"""The main job on this machine, by its own commands: deploy, a client, load tests, undeploy.

Kills, restarts and failed starts are in deploy/tests/test_real_stack.py.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import requests
from google.protobuf.any_pb2 import Any

import seldon_pb2
import seldon_pb2_grpc
from local_stack import CLIENT, ROOT, Stack
from polling import eventually
from serving_core.digits import held_out

pytestmark = pytest.mark.timeout(300)

DIGITS = held_out()


@pytest.fixture(scope="module")
def own_stack(new_stack: Callable[[], Stack]) -> Iterator[Stack]:
    stack = new_stack()
    stack.deploy()
    yield stack
    stack.undeploy()
    assert not stack.processes()
    assert not stack.home.exists()


def predict_rest(stack: Stack, key: str) -> int:
    parameters = {"consumer_key": key, "json": json.dumps({"data": DIGITS.images[0].tolist()})}
    answer = requests.get(f"{stack.url}/js/predict", params=parameters, timeout=10)
    if answer.status_code == 200:
        assert len(answer.json()["predictions"]) == 10
    return answer.status_code


def predict_grpc(stack: Stack, token: str) -> grpc.StatusCode:
    data = Any()
    data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=DIGITS.images[0]))
    with grpc.insecure_channel(stack.grpc_target) as channel:
        try:
            reply = seldon_pb2_grpc.SeldonStub(channel).Classify(
                seldon_pb2.ClassificationRequest(data=data),
                metadata=(("oauth_token", token),),
                timeout=10,
            )
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        assert len(reply.predictions) == 10
        return grpc.StatusCode.OK


def test_a_second_deploy_changes_nothing_and_status_is_healthy(own_stack: Stack) -> None:
    before = {process.pid for process in own_stack.processes()}
    own_stack.deploy()
    assert {process.pid for process in own_stack.processes()} == before
    text = own_stack.run(sys.executable, "-m", "deploy", "status").stdout
    for name in ("envoy", "control-plane", "tensorflow-deep-mnist"):
        assert name in text


@pytest.mark.parametrize("test_type", ["js-predict", "grpc-predict"])
def test_a_load_test_without_a_failure(own_stack: Stack, test_type: str, tmp_path: Path) -> None:
    own_stack.run(
        *("launch-locust-load-test", "--seldon-client", CLIENT, "--test-type", test_type),
        *("--locust-clients", "20", "--locust-hatch-rate", "20", "--wait", "190-210"),
        *("--output", str(tmp_path)),
        LOADTEST_DURATION="3",
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


def test_another_version_replaces_the_first(own_stack: Stack) -> None:
    def servers() -> set[int]:
        found = own_stack.processes()
        return {one.pid for one in found if "serving_rest" in " ".join(one.cmdline())}

    before = servers()
    assert before
    own_stack.run(
        *("start-microservice", "--type", "prediction", "--client", CLIENT),
        *("-p", "tensorflow-deep-mnist", str(ROOT / "models/deep_mnist/2"), "rest", "1.0"),
    )
    assert predict_rest(own_stack, own_stack.credentials().js_key) == 200
    after = servers()
    assert not before & after
    assert len(after) == len(before)


def test_a_disabled_client_is_soon_refused_over_both_protocols(own_stack: Stack) -> None:
    shown, token = own_stack.credentials(), own_stack.token()
    assert predict_rest(own_stack, shown.js_key) == 200
    assert predict_grpc(own_stack, token) == grpc.StatusCode.OK
    own_stack.run("seldon-cli", "client", "--action", "disable", "--client-name", CLIENT)
    try:
        eventually(lambda: predict_rest(own_stack, shown.js_key) == 401)
        eventually(lambda: predict_grpc(own_stack, token) == grpc.StatusCode.UNAUTHENTICATED)
    finally:
        own_stack.run("seldon-cli", "client", "--action", "enable", "--client-name", CLIENT)
    eventually(lambda: predict_rest(own_stack, shown.js_key) == 200)


def test_a_port_in_use_is_named(new_stack: Callable[[], Stack], own_stack: Stack) -> None:
    other = new_stack()
    port = str(own_stack.rest_port)
    failed = other.run(
        *(sys.executable, "-m", "deploy", "deploy"), check=False, SELDON_REST_PORT=port
    )
    assert failed.returncode != 0
    assert port in failed.stderr
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
