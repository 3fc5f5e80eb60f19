"""`python -m deploy compose …`: what make calls with TARGET=compose."""

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click

import env_settings as env
from deploy import check, compose, deployment, images
from deploy.commands.base import StackCommand, StackGroup, debug_option
from deploy.console import say
from deploy.errors import ComposeFailed, SettingInvalid
from deploy.microservices import Api
from deploy.operator_view import Credentials
from deploy.settings import gateway_host
from loadtest.payloads import DIGITS, RANDOM
from loadtest.settings import workers as load_generators
from seldon_gateway.registry import SCOPE_ALL, SCOPE_JS
from seldon_gateway.settings import GatewaySettings
from serving_core import read_model_folder

_TEST_TYPES = ("js-predict", "grpc-predict")
# compose.yaml sets the host and publishes no port of the load test.
_NOT_IN_CONTAINERS = ("LOADTEST_HOST", "LOADTEST_WEB_PORT")


@dataclass(frozen=True)
class LoadTest:
    """What the load test in containers reads here; the rest goes to the containers."""

    workers: int = load_generators(2, "load generators")
    output: Path = env.path("LOADTEST_OUTPUT", Path("results"), "parent of the result folder")  # noqa: RUF009


def _found() -> compose.Compose:
    environ = dict(os.environ)
    # Run the version that images are built with.
    environ.setdefault("SELDON_TAG", version("prediction-services-deploy"))
    return compose.Compose.find(Path.cwd(), environ)


@click.group("compose", cls=StackGroup)
def main() -> None:
    """Operate the stack in containers.

    docker compose or podman-compose runs them.
    """


@main.command("deploy", cls=StackCommand)
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(compose.MONITORING),
    help="Monitoring service to leave out; without Prometheus, Grafana is left out too.",
)
@debug_option
def deploy(without: tuple[str, ...]) -> None:
    """Build missing images, start every container and check one prediction per protocol."""
    it = _found()
    folder = it.root / (it.environ.get("MODEL_FOLDER") or deployment.MODEL_FOLDER)
    model = read_model_folder(folder).info
    if "prometheus" in without:
        without = (*without, "grafana")
    monitoring = [name for name in compose.MONITORING if name not in without]
    _build_missing(it)
    password = Path(it.environ.get("GRAFANA_PASSWORD_FILE") or compose.PASSWORD)
    compose.make_password(password)
    gateway = GatewaySettings.from_env(it.environ)
    host = gateway_host(gateway)
    base = f"http://{host}:{gateway.rest_port}"
    compose.bring_up(it, (*compose.SERVING, *monitoring), base)
    shown = _credentials(it)
    for api in Api:
        say(check.prediction(api, gateway, shown, compose.VARIATION, model))
    say("")
    say(f"REST          {base}/js/predict and /predict")
    say(f"gRPC          {host}:{gateway.grpc_port} (io.seldon.api.rpc.Seldon/Classify)")
    for name, variable, port in (
        ("prometheus", "SELDON_PROMETHEUS_PORT", "9190"),
        ("alertmanager", "SELDON_ALERTMANAGER_PORT", "9093"),
        ("grafana", "SELDON_GRAFANA_PORT", "3000"),
    ):
        if name in monitoring:
            user = f" (user admin, password in {password})" if name == "grafana" else ""
            say(f"{name:<13} http://127.0.0.1:{it.environ.get(variable) or port}{user}")
    say("next          make loadtest TARGET=compose PROTO=rest, make undeploy TARGET=compose")


@main.command("undeploy", cls=StackCommand)
@click.option("--purge", is_flag=True, help="Remove the volumes too: clients, keys, metrics.")
@debug_option
def undeploy(purge: bool) -> None:
    """Stop and remove every container; volumes are kept."""
    it = _found()
    it.run("--profile", "loadtest", "down", *(["--volumes"] if purge else []))
    if purge:
        Path(it.environ.get("GRAFANA_PASSWORD_FILE") or compose.PASSWORD).unlink(missing_ok=True)


@main.command("status", cls=StackCommand)
@debug_option
def status() -> int:
    """Show the state of every service; exit with status 1 when a serving one is down."""
    it = _found()
    wrong = []
    for name in (*compose.SERVING, *compose.MONITORING):
        state, code = it.state(name)
        say(f"{name:<14} {state}" + (f" ({code})" if state == "exited" else ""))
        if state != "running" and (name, state, code) != (compose.SETUP, "exited", 0):
            wrong.append(name)
    return 1 if [name for name in wrong if name not in compose.MONITORING] else 0


@main.command("logs", cls=StackCommand)
@click.argument("name", required=False)
@debug_option
def logs(name: str | None) -> None:
    """Show the last log lines of every service, or of NAME."""
    _found().run("logs", "--tail", "20", *([name] if name else []))


@main.command("loadtest", cls=StackCommand)
@click.option("--test-type", required=True, type=click.Choice(_TEST_TYPES))
@debug_option
def loadtest(test_type: str) -> int:
    """Run Locust's master and workers in containers; results are copied to LOADTEST_OUTPUT."""
    for variable in _NOT_IN_CONTAINERS:
        if os.environ.get(variable):
            raise SettingInvalid(
                f"{variable.removeprefix('LOADTEST_')} ({variable}) is not supported in "
                "containers: the load test uses their gateway and serves no page; unset it"
            )
    payload = os.environ.get("LOADTEST_PAYLOAD")
    if payload and payload not in (DIGITS, RANDOM):
        raise SettingInvalid(
            f"PAYLOAD (LOADTEST_PAYLOAD) is {payload!r}, expected {DIGITS} or {RANDOM} in "
            "containers, which cannot read files of this machine"
        )
    it = _found()
    if it.state(compose.GATEWAY)[0] != "running":
        raise ComposeFailed("no stack is running in containers; run make deploy TARGET=compose")
    wanted = LoadTest(**env.read(LoadTest, it.environ, SettingInvalid))
    status = compose.load_test(it, test_type, wanted.workers, wanted.output)
    say(f"report copied to {wanted.output / 'latest' / 'report.html'}")
    return status


def _build_missing(it: compose.Compose) -> None:
    ours = version("prediction-services-deploy")
    missing = it.missing_images(compose.image_references(it.environ, ours))
    if not missing:
        return
    if it.environ.get("SELDON_REGISTRY"):
        return  # compose pulls them
    names = {reference.rpartition("/")[2].partition(":")[0] for reference in missing}
    if it.environ["SELDON_TAG"] != ours:
        # Not all images: the present ones may have an engine that the command does not name.
        raise ComposeFailed(
            f"images not found: {', '.join(missing)}; "
            f"run make images TAG={it.environ['SELDON_TAG']} NAME='{' '.join(sorted(names))}'"
        )
    build = images.Build("localhost", ours, ours, images.revision(it.root))
    wanted = [image for image in images.IMAGES if image.name in names]
    for reference in images.build_images(it.engine, build, wanted, it.root, it.environ):
        say(f"built {reference}")


def _credentials(it: compose.Compose) -> Credentials:
    rows = json.loads(it.seldon_cli("keys", "--client-name", deployment.CLIENT))
    keys = {row["scope"]: row for row in rows}
    return Credentials(
        keys[SCOPE_JS]["key"], keys[SCOPE_ALL]["key"], keys[SCOPE_ALL].get("secret") or ""
    )
