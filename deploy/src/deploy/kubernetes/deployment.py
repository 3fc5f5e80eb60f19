"""The commands' work in a cluster, from the environment to the last line that is printed."""

from collections.abc import Iterable, Mapping, Sequence

from deploy.console import say, step
from deploy.databases import DEFAULT_DATABASE
from deploy.deployment import CLIENT
from deploy.kubernetes.control_plane import ControlPlane
from deploy.kubernetes.lifecycle import DeployOptions, deploy_objects, undeploy_objects
from deploy.kubernetes.objects.common import Object
from deploy.kubernetes.objects.gateway import GATEWAY_SERVICE, GRPC_PORT
from deploy.kubernetes.objects.serving import default_microservices, model_download
from deploy.kubernetes.rollout import Planned, Rollout, plan
from deploy.kubernetes.secret_objects import secret_objects
from deploy.kubernetes.session import place_of, session
from deploy.kubernetes.settings import KubernetesSettings
from deploy.kubernetes.stack import core, in_order, stack
from deploy.lifecycle import TEST_CLIENT
from deploy.microservices import Api, Entry

_READY_S = 300.0
_HTTP_PORT = 80


def bring_up(environ: Mapping[str, str], context: str | None) -> None:
    """The gateway, the volume, the job that downloads a model if it is said which, client `test`.

    Raises:
        SettingInvalid, ClusterError: One sentence each.
    """
    settings = KubernetesSettings.from_env(environ)
    objects = in_order([*core(settings), *model_download(settings)])
    _apply(objects, settings, environ, DeployOptions(GATEWAY_SERVICE, context, _READY_S))
    with session(environ, context, quiet=True) as it:
        ControlPlane(it.api, it.place).setup_client(TEST_CLIENT, DEFAULT_DATABASE)
    say("the gateway is ready")


def deploy(
    environ: Mapping[str, str], options: DeployOptions, monitoring_files: Mapping[str, str]
) -> None:
    """The whole stack with a client that it serves, as on one machine.

    Raises:
        SettingInvalid, ClusterError: One sentence each.
    """
    settings = KubernetesSettings.from_env(environ)
    _apply(stack(settings, monitoring_files), settings, environ, options)
    if options.dry_run:
        return
    with session(environ, options.context, quiet=True) as it:
        control = ControlPlane(it.api, it.place)
        with step(f"setting up client {CLIENT}"):
            for client in (TEST_CLIENT, CLIENT):
                control.setup_client(client, DEFAULT_DATABASE)
        planned = [Planned(one, 1.0) for one in default_microservices(settings)]
        Rollout(it, control, options.timeout_s).start(CLIENT, planned, force=options.force)
        with step("predicting a test digit"):
            checks = control.check(CLIENT, GATEWAY_SERVICE, _HTTP_PORT, GRPC_PORT)
    for line in (*checks, *_next_steps()):
        say(line)


def take_down(
    environ: Mapping[str, str],
    context: str | None,
    *,
    purge: bool = False,
    timeout_s: float = 180.0,
) -> None:
    """All that is ours, microservices and load tests too; `purge`: the data too.

    Raises:
        SettingInvalid, ClusterError: One sentence each.
    """
    place = place_of(KubernetesSettings.from_env(environ))
    undeploy_objects(place, environ, context=context, purge=purge, timeout_s=timeout_s)


def start(
    client: str,
    from_images: Sequence[Entry],
    from_folders: Sequence[Entry],
    replicas: int | None,
    environ: Mapping[str, str],
    context: str | None,
) -> bool:
    """`start-microservice` in a cluster; whether anything had to be changed.

    Raises:
        SettingInvalid, MicroserviceRefused, ClusterError: One sentence each.
    """
    settings = KubernetesSettings.from_env(environ)
    planned = plan(settings, from_images, from_folders, replicas)
    with session(environ, context) as it:
        return Rollout(it, ControlPlane(it.api, it.place), _READY_S).start(client, planned)


def stop(name: str, apis: Iterable[Api], environ: Mapping[str, str], context: str | None) -> None:
    """`stop-microservice` in a cluster.

    Raises:
        SettingInvalid, MicroserviceRefused, ClusterError: One sentence each.
    """
    with session(environ, context) as it:
        Rollout(it, ControlPlane(it.api, it.place), _READY_S).stop(name, apis)


def _apply(
    objects: Sequence[Object],
    settings: KubernetesSettings,
    environ: Mapping[str, str],
    options: DeployOptions,
) -> None:
    with session(environ, options.context, quiet=True) as it:
        made = in_order([*objects, *secret_objects(settings, it.api)])
    deploy_objects(made, place_of(settings), options, environ)


def _next_steps() -> list[str]:
    return [
        f"keys      seldon-cli keys --client-name {CLIENT} (with SELDON_TARGET=kubernetes)",
        "next      make label-loadtest-node NODE=…, make loadtest TARGET=kubernetes PROTO=rest, "
        "make status TARGET=kubernetes, make undeploy TARGET=kubernetes",
    ]
