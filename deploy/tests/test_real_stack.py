"""The real stack: gateway, model servers, commands. The tests of this module build on each other's
stack but not on each other's order: each starts what it needs."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from stack_under_test import CLIENT, MODEL, StackUnderTest, load

from deploy import lifecycle
from deploy.__main__ import main as deploy_main
from deploy.commands.cli import main as seldon_cli
from deploy.commands.gateway import seldon_down, seldon_up
from deploy.commands.microservice import start_microservice
from deploy.local import Condition
from deploy.locking import lock
from deploy.microservices import Api
from polling import eventually
from ports import free_ports

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

PATIENCE_S = 30.0  # far above what it takes, which depends on what else the machine does
BOTH = ("mnist rest 1.0", "mnist rpc 1.0")


@pytest.fixture
def serving(stack: StackUnderTest) -> StackUnderTest:
    """A client served by one microservice over both protocols."""
    stack.up()
    stack.cli("client", "--action", "setup", "--db-name", "ClientDB", "--client-name", CLIENT)
    stack.start(*BOTH)
    return stack


def programs(stack: StackUnderTest) -> set[str]:
    return set(stack.local.states()) - {"envoy", "control-plane"}


def test_seldon_up_twice_changes_nothing(stack: StackUnderTest) -> None:
    assert "the gateway is ready" in stack.up()
    before = stack.pids()
    said = stack.ok(seldon_up, SELDON_WITH_SPARK="false", SELDON_WITH_GLUSTERFS="true")
    assert "is already running: nothing was changed" in said
    assert "SELDON_WITH_SPARK=false" in said
    assert "SELDON_WITH_GLUSTERFS=true" in said
    assert stack.pids() == before
    assert "client[test]:" in stack.cli("client")


def test_a_new_client_has_keys(stack: StackUnderTest) -> None:
    stack.up()
    said = stack.cli("client", "--action", "setup", "--db-name", "ClientDB", "--client-name", "new")
    (all_key,) = json.loads(stack.cli("--quiet", "keys", "--client-name", "new", "--scope", "all"))
    (js_key,) = json.loads(stack.cli("-q", "keys", "--client-name", "new", "--scope", "js"))
    assert set(js_key) == {"db", "client", "key", "secret", "scope"}
    assert (js_key["db"], js_key["secret"]) == ("ClientDB", "")
    assert all(value in said for value in (js_key["key"], all_key["key"], all_key["secret"]))
    with stack.caller("new") as caller:
        eventually(
            lambda: caller.status() == 503, within_s=1.0
        )  # known, though served by nothing yet
        stack.cli("client", "--action", "disable", "--client-name", "new")
        eventually(lambda: caller.status() == 401, within_s=1.0)
        stack.cli("client", "--action", "enable", "--client-name", "new")
        eventually(lambda: caller.status() == 503, within_s=1.0)
        stack.cli("client", "--action", "remove", "--client-name", "new")
        eventually(lambda: caller.status() == 401, within_s=1.0)
    assert "client[new]" not in stack.cli("client")


ANY_MODEL = """
import numpy as np

class Model:
    inputs = {"text": ("BYTES", [-1])}

    def load(self, folder): pass

    def predict(self, inputs):
        return {"length": np.array([len(text) for text in inputs["text"]], np.int64)}
"""


def test_a_model_of_another_kind_is_served_and_checked(
    serving: StackUnderTest, tmp_path: Path
) -> None:
    (tmp_path / "lengths").mkdir()
    (tmp_path / "lengths" / "model.py").write_text(ANY_MODEL)
    entry = ("-p", "lengths", str(tmp_path / "lengths"))
    words = ("--type", "prediction", "--client", CLIENT, *entry, "rest", "1", *entry, "rpc", "1")
    said = serving.ok(start_microservice, *words)
    assert "lengths serves 1 of the rest traffic" in said
    checked = serving.cli("check", "--client-name", CLIENT)
    assert "lengths predicts length [1] over REST" in checked
    assert "lengths predicts length [1] over gRPC" in checked
    assert "nothing was changed" in serving.ok(start_microservice, *words)
    serving.start(*BOTH)
    assert "a handwritten 7 is predicted as 7" in serving.cli("check", "--client-name", CLIENT)
    serving.stop("lengths")


def test_both_protocols_are_served_and_recorded(serving: StackUnderTest) -> None:
    with serving.caller() as caller:
        assert (caller.rest(), caller.rpc()) == ("mnist", "mnist")
    for api in Api:
        record = json.loads(
            (serving.home / f"microservices/microservice-mnist-{api}.json").read_text()
        )
        assert record["folder"] == str(MODEL)
    document = json.loads(
        serving.cli("-q", "predict_alg", "--action", "show", "--client-name", CLIENT)
    )
    assert [(v["label"], v["ratio"]) for v in document["variations"]] == [("mnist", 1.0)] * 2


def test_the_same_again_restarts_nothing(serving: StackUnderTest) -> None:
    before = serving.pids()
    assert "nothing was changed" in serving.start(*BOTH)
    assert serving.pids() == before


def test_the_built_in_client_predicts(serving: StackUnderTest) -> None:
    document = json.dumps({"data": [0.0] * 784})
    words = ("-q", "api", "--client-name", CLIENT, "--json", document)
    over_js = json.loads(serving.cli(*words, "--endpoint", "/js/predict"))
    over_oauth = json.loads(serving.cli(*words, "--endpoint", "/predict"))
    assert over_js["predictions"] == over_oauth["predictions"]
    assert len(over_js["predictions"]) == 10
    wrong = serving.run(
        seldon_cli, "api", "--client-name", CLIENT, "--json", "{}", "--endpoint", "/js/predict"
    )
    assert wrong.exit_code == 1
    assert "response code" in wrong.output


@pytest.mark.parametrize(
    ("entries", "environment", "message"),
    [
        (("mnist {empty} rest 1.0",), {}, "no model.json"),
        (("mnist /nowhere rest 1.0",), {}, "model folder /nowhere does not exist"),
        (("mnist {altered} rest 1.0",), {}, "fails its checksum"),
        (("mnist rest 0.9",), {}, "sum to 0.9, expected 1.0"),
        # Found by the server itself when it starts.
        (("mnist rest 1.0",), {"REST_WORKERS": "many"}, "serving-rest: REST_WORKERS is 'many'"),
        (("mnist rpc 1.0",), {"GRPC_WORKERS": "many"}, "serving-grpc: GRPC_WORKERS is 'many'"),
        # One of two cannot start: neither goes into service.
        (
            ("other rpc 1.0", "mnist rest 1.0"),
            {"REST_WORKERS": "0"},
            "serving-rest: REST_WORKERS is '0'",
        ),
    ],
)
def test_a_failed_start_leaves_the_old_serving(
    serving: StackUnderTest,
    tmp_path: Path,
    entries: tuple[str, ...],
    environment: dict[str, str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(MODEL, tmp_path / "altered")
    with (tmp_path / "altered/model.tflite").open("r+b") as model:
        model.write(b"altered")
    paths = {name: str(tmp_path / name) for name in ("empty", "altered")}
    before, running = programs(serving), serving.local.states()
    entries = tuple(entry.format(**paths) for entry in entries)
    assert message in serving.start_refused(*entries, **environment)
    assert programs(serving) == before
    assert {name: state.pid for name, state in serving.local.states().items()} == {
        name: state.pid for name, state in running.items()
    }
    with serving.caller() as caller:
        assert (caller.rest(), caller.rpc()) == ("mnist", "mnist")


def test_an_unknown_client_is_reported_with_the_setup_command(serving: StackUnderTest) -> None:
    sentence = serving.start_refused("mnist rest 1.0", client="nobody")
    assert "no client 'nobody'" in sentence
    assert "seldon-cli client --action setup" in sentence


def test_a_new_version_replaces_the_old_without_a_failure(
    serving: StackUnderTest, tmp_path: Path
) -> None:
    newer = tmp_path / "2"
    shutil.copytree(MODEL, newer)
    old = serving.processes("mnist-rest-0") + serving.processes("mnist-rpc-0")
    assert old
    with load(serving) as seen:
        serving.start(f"mnist {newer} rest 1.0", f"mnist {newer} rpc 1.0")
        assert programs(serving) == {"mnist-rest-1", "mnist-rpc-1"}
        serving.start(f"mnist {newer} rest 1.0", f"mnist {newer} rpc 1.0", replicas=2)
        assert len(programs(serving)) == 4
        serving.start(*BOTH)
    assert not [process for process in old if process.is_running()]
    assert len(programs(serving)) == 2
    assert seen.answered > 100
    assert seen.failures == 0


def test_variations_share_and_cannot_be_stopped_one_by_one(serving: StackUnderTest) -> None:
    serving.start("model-a rest 0.5", "model-b rest 0.5")
    with serving.caller() as caller:
        assert {caller.rest() for _ in range(60)} == {"model-a", "model-b"}
        assert caller.rpc() == "mnist"  # no rpc entry: as it was
        sentence = serving.stop_refused("model-a")
        assert (
            "0.5 of the rest traffic of client deep_mnist_client, the rest goes to model-b"
            in sentence
        )
        assert {caller.rest() for _ in range(60)} == {"model-a", "model-b"}
    serving.start(*BOTH)
    serving.stop("model-a")
    serving.stop("model-b", "rest")
    assert {"mnist-rest", "mnist-rpc"} == {name[: name.rindex("-")] for name in programs(serving)}
    assert "no microservice model-a is running" in serving.stop_refused("model-a")


def test_clients_share_a_microservice_and_move_together(
    serving: StackUnderTest, tmp_path: Path
) -> None:
    serving.cli("client", "--action", "setup", "--db-name", "ClientDB", "--client-name", "other")
    before = serving.pids()
    serving.start("mnist rest 1.0", client="other")
    assert serving.pids() == before
    newer = tmp_path / "2"
    shutil.copytree(MODEL, newer)
    serving.start(f"mnist {newer} rest 1.0")
    with serving.caller("other") as other:
        assert other.rest() == "mnist"
    serving.stop("mnist", "rest")
    with serving.caller() as caller, serving.caller("other") as other:
        assert (caller.status(), other.status()) == (503, 503)
        assert caller.rpc() == "mnist"
    serving.cli("client", "--action", "remove", "--client-name", "other")


@pytest.mark.parametrize(
    ("program", "part"),
    [
        ("envoy", "first"),
        ("control-plane", "first"),
        ("control-plane", "last"),
        ("mnist-rest", "first"),
        ("mnist-rest", "last"),
        ("mnist-rpc", "first"),
        ("mnist-rpc", "last"),
    ],
)
def test_a_killed_process_is_back_in_time(
    serving: StackUnderTest, program: str, part: str, record_property: Callable[[str, object], None]
) -> None:
    name = next(name for name in serving.local.states() if name.startswith(program))
    eventually(lambda: serving.local.states()[name].state == "RUNNING")
    parent = serving.local.states()[name].pid
    victim = parent if part == "first" else psutil.Process(parent).children()[-1].pid
    before = serving.pids()
    with load(serving) as seen:
        eventually(lambda: seen.recovered_since(0.0), "both protocols answer before the kill")
        os.kill(victim, signal.SIGKILL)
        time.sleep(1.0)  # a killed parent's workers may still serve for a moment before they go
        eventually(lambda: serving.local.unready() == [])
        healthy = time.monotonic()
        eventually(lambda: seen.recovered_since(healthy), "both protocols answer after the kill")
    assert victim not in serving.pids()
    assert len(serving.pids()) == len(before)
    outage_s = seen.longest_gap_s
    record_property("outage_s", outage_s)
    sys.stdout.write(f"kill -9 of {name} ({part}): at most {outage_s:.2f} s without an answer\n")
    assert outage_s < PATIENCE_S
    assert serving.ok(deploy_main, "status")


def test_known_clients_go_on_without_the_control_plane(
    serving: StackUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_HEAL_S", 0.1)
    stopped = serving.processes("control-plane")
    with serving.caller() as caller:
        try:
            for process in stopped:
                process.suspend()
            unhealthy = serving.run(deploy_main, "status")
            sentence = serving.refused(seldon_up)
            # Several times as long as Envoy keeps the keys that tokens are verified with.
            ends = time.monotonic() + 4
            while time.monotonic() < ends:
                assert (caller.rest(), caller.rpc()) == ("mnist", "mnist")
        finally:
            for process in stopped:
                process.resume()
    assert "is unhealthy (control-plane is RUNNING); run `make undeploy`" in sentence
    assert unhealthy.exit_code == 1
    assert "unhealthy: control-plane" in unhealthy.stderr
    eventually(lambda: serving.run(deploy_main, "status").exit_code == 0)


def test_status_and_logs_name_every_service(serving: StackUnderTest) -> None:
    eventually(lambda: serving.run(deploy_main, "status").exit_code == 0)
    said = serving.ok(deploy_main, "status")
    for name in ("supervisord", "envoy", "control-plane", *programs(serving)):
        assert name in said
    assert "mnist-rest" in serving.ok(deploy_main, "logs", "mnist")
    assert "log name is 'nothing', expected one of" in serving.refused(
        deploy_main, "logs", "nothing"
    )


def test_one_command_at_a_time(serving: StackUnderTest) -> None:
    with lock(serving.home):
        for sentence in (
            serving.start_refused("mnist rest 1.0"),
            serving.refused(seldon_up),
            serving.refused(deploy_main, "deploy", "--model-folder", str(MODEL)),
        ):
            assert "is changing the stack" in sentence
            assert str(os.getpid()) in sentence


def test_a_running_stack_keeps_its_ports(serving: StackUnderTest) -> None:
    port = str(serving.ports[5])
    sentence = serving.refused(seldon_up, SELDON_REST_PORT=port)
    assert "with other values of SELDON_REST_PORT; to change them, run `make undeploy`" in sentence
    # Other commands follow the stack that runs.
    assert serving.ok(deploy_main, "status", SELDON_REST_PORT=port)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "port {rest} for REST is in use"),
        ({"SELDON_REST_PORT": "{free}"}, "SELDON_GRPC_PORT to a free port"),
        ({"SELDON_REST_PORT": "x"}, "SELDON_REST_PORT is 'x', expected an integer"),
        ({"SELDON_MICROSERVICE_PORTS": "9"}, "SELDON_MICROSERVICE_PORTS is '9', expected a"),
        ({"ENVOY_BIN": "/no/envoy"}, "ENVOY_BIN is '/no/envoy', expected an executable"),
    ],
)
def test_a_failed_start_is_reported_and_leaves_nothing(
    serving: StackUnderTest, tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    rest, free = serving.settings.gateway.rest_port, serving.ports[5]
    other = StackUnderTest(
        tmp_path, serving.ports, {k: v.format(free=free) for k, v in environment.items()}
    )
    for command, words in (
        (seldon_up, ()),
        (deploy_main, ("deploy", "--model-folder", str(MODEL))),
    ):
        assert message.format(rest=rest) in other.refused(command, *words)
        assert other.local.condition() is Condition.ABSENT


def test_a_supervisor_without_a_gateway_is_reported(
    stack: StackUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a command leaves it that is killed while it starts the stack."""
    monkeypatch.setattr(lifecycle, "_HEAL_S", 0.1)
    other = StackUnderTest(stack.home / "other", free_ports(32))
    other.home.mkdir(parents=True)
    other.local.boot()
    try:
        sentence = other.refused(seldon_up)
        assert "control-plane is missing" in sentence
        assert "make undeploy" in sentence
    finally:
        other.down("--purge")


def test_a_missing_model_starts_nothing(tmp_path: Path) -> None:
    other = StackUnderTest(tmp_path, free_ports(32))
    sentence = other.refused(deploy_main, "deploy", "--model-folder", str(tmp_path / "none"))
    assert "none does not exist" in sentence
    assert other.local.condition() is Condition.ABSENT


def test_a_deploy_that_fails_late_stops_what_it_started(
    tmp_path: Path,
) -> None:
    other = StackUnderTest(tmp_path / "h", free_ports(32), {"GRPC_WORKERS": "none"})
    sentence = other.refused(deploy_main, "deploy", "--model-folder", str(MODEL))
    assert "GRPC_WORKERS is 'none'" in sentence
    assert other.local.condition() is Condition.ABSENT
    assert other.processes() == []


def test_deploy_then_deploy_then_undeploy(stack: StackUnderTest) -> None:
    stack.down()
    words = ("deploy", "--model-folder", str(MODEL))
    said = stack.ok(deploy_main, *words)
    assert "a handwritten 7 is predicted as 7 over REST" in said
    assert "a handwritten 7 is predicted as 7 over gRPC" in said
    before = stack.pids()
    assert "already deployed: nothing was changed" in stack.ok(deploy_main, *words)
    assert stack.pids() == before
    stack.ok(deploy_main, "undeploy")
    assert stack.processes() == []
    # Clients and keys are still there, on their way to the same ports.
    keys = stack.credentials()
    stack.ok(deploy_main, *words)
    assert stack.credentials() == keys


def test_a_killed_supervisor_breaks_nothing_and_is_reported(serving: StackUnderTest) -> None:
    supervisor = serving.local.supervisor_process()
    supervisor.kill()
    eventually(lambda: serving.local.condition() is Condition.ORPHANED)
    with serving.caller() as caller:
        assert (caller.rest(), caller.rpc()) == ("mnist", "mnist")
        for command, words in (
            (deploy_main, ("status",)),
            (deploy_main, ("deploy", "--model-folder", str(MODEL))),
            (seldon_up, ()),
        ):
            sentence = serving.refused(command, *words)
            assert "the supervisor of the stack" in sentence
            assert "run `make undeploy`, then `make deploy`" in sentence
        assert "is not running, but" in serving.start_refused("mnist rest 1.0")
        assert caller.rest() == "mnist"
    serving.down()
    assert serving.processes() == []
    assert "is predicted as 7 over REST" in serving.ok(
        deploy_main, "deploy", "--model-folder", str(MODEL)
    )


def test_seldon_down_leaves_no_process_and_purge_no_file(stack: StackUnderTest) -> None:
    stack.up()
    stack.down()
    assert stack.processes() == []
    assert (stack.home / "seldon.db").exists()
    assert "no processes were running" in stack.down()
    assert "no stack is running" in stack.refused(deploy_main, "status")
    stack.down("--purge")
    assert not stack.home.exists()
    assert "nothing to stop" in stack.ok(seldon_down)
