"""Deploys the whole stack: gateway, client, and the model over both protocols."""

from collections.abc import Mapping
from pathlib import Path

from deploy import check, prometheus_program
from deploy.console import say, step
from deploy.databases import DEFAULT_DATABASE
from deploy.lifecycle import bring_up
from deploy.local import LocalStack
from deploy.locking import lock
from deploy.microservices import Api, Wanted
from deploy.operator_view import operator
from deploy.rollout import Rollout
from deploy.settings import StackSettings, gateway_host
from serving_core import read_model_folder

CLIENT = "deep_mnist_client"
MICROSERVICE = "tensorflow-deep-mnist"
MODEL_FOLDER = Path("models/deep_mnist/1")


def deploy(local: LocalStack, environ: Mapping[str, str], model_folder: Path) -> None:
    """Start what is not running, and check one prediction per protocol.

    A stack that was started by this call is stopped if a later step fails.

    Raises:
        DeployError, GatewayError, ServingError: One sentence each.
    """
    read_model_folder(model_folder)
    local.files.prepare()
    with lock(local.home):
        started = bring_up(local, environ)
        try:
            _serve(local, environ, model_folder, started)
        except BaseException:
            if started:
                local.shut_down()
            raise


def _serve(
    local: LocalStack, environ: Mapping[str, str], model_folder: Path, started: bool
) -> None:
    settings = StackSettings.of_stack(local.files, environ)
    with operator(local.files, environ) as it:
        made = it.setup_client(CLIENT, DEFAULT_DATABASE)
        wanted = [Wanted(MICROSERVICE, model_folder, api, 1.0) for api in Api]
        rollout = Rollout(local, settings, it.registry)
        changed = rollout.start(CLIENT, wanted, 1, environ)
        if not (started or made or changed):
            say("already deployed: nothing was changed")
        with step("sending a test prediction"):
            credentials = it.credentials(CLIENT)
            model = read_model_folder(model_folder).info
            checks = [
                check.prediction(api, settings.gateway, credentials, MICROSERVICE, model)
                for api in Api
            ]
        prometheus_program.bring_up(local, settings)
    for line in (*checks, *_next_steps(local, settings)):
        say(line)


def _next_steps(local: LocalStack, settings: StackSettings) -> list[str]:
    gateway = settings.gateway
    host = gateway_host(gateway)
    return [
        "",
        f"REST      http://{host}:{gateway.rest_port}/js/predict and /predict",
        f"gRPC      {host}:{gateway.grpc_port} (io.seldon.api.rpc.Seldon/Classify)",
        *(
            [f"metrics   http://127.0.0.1:{settings.prometheus_port} (Prometheus)"]
            if prometheus_program.NAME in local.files.programs()
            else []
        ),
        f"keys      seldon-cli keys --client-name {CLIENT}",
        f"state     {local.home} (clients, keys, logs)",
        "next      make loadtest PROTO=rest, make loadtest PROTO=grpc, make status, make logs, "
        "make undeploy",
    ]
