"""`python -m deploy kubernetes …`: what make calls with TARGET=kubernetes."""

import os
from pathlib import Path

import click

from deploy.commands.base import StackCommand, StackGroup, debug_option
from deploy.console import say
from deploy.kubernetes import manifests
from deploy.kubernetes.api import connect
from deploy.kubernetes.cluster import Place
from deploy.kubernetes.lifecycle import Wishes, deploy_objects, undeploy_objects
from deploy.kubernetes.objects.gateway import CONTROL_PLANE, GATEWAY_SERVICE, OPERATOR
from deploy.kubernetes.secret_objects import secret_objects
from deploy.kubernetes.settings import KubernetesSettings
from deploy.kubernetes.stack import in_order, stack

_context = click.option("--context", help="Of KUBECONFIG; its current one.")


@click.group("kubernetes", cls=StackGroup)
def main() -> None:
    """The stack in a cluster; docs/kubernetes.md has the variables."""


@main.command("deploy", cls=StackCommand)
@click.option("--overlay", "overlays", multiple=True, help="monitoring; else K8S_OVERLAYS.")
@_context
@click.option("--timeout", "timeout_s", type=float, default=300.0, show_default=True)
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--force", is_flag=True, help="Take over fields that others set.")
@debug_option
def deploy(
    overlays: tuple[str, ...], context: str | None, timeout_s: float, dry_run: bool, force: bool
) -> None:
    """Apply the stack, wait until it is ready, print its addresses; safe to run again."""
    settings = _settings(overlays)
    wants_files = "monitoring" in settings.overlays
    objects = stack(settings, manifests.monitoring_files(Path.cwd()) if wants_files else {})
    with connect(os.environ, context) as api:
        objects = in_order([*objects, *secret_objects(settings, api)])
    place = Place(settings.namespace, settings.instance)
    wishes = Wishes(GATEWAY_SERVICE, context, timeout_s, dry_run, force)
    deploy_objects(objects, place, wishes, os.environ)
    if not dry_run:
        say(
            f"clients   kubectl exec -n {settings.namespace} deploy/{CONTROL_PLANE} "
            f"-c {OPERATOR} -- seldon-cli client --action setup --db-name ClientDB "
            "--client-name deep_mnist_client"
        )


@main.command("undeploy", cls=StackCommand)
@_context
@click.option("--timeout", "timeout_s", type=float, default=180.0, show_default=True)
@click.option("--purge", is_flag=True, help="Remove the data and an empty namespace too.")
@debug_option
def undeploy(context: str | None, timeout_s: float, purge: bool) -> None:
    """Remove what a deploy made, and nothing else; data stays."""
    settings = _settings(())
    place = Place(settings.namespace, settings.instance)
    undeploy_objects(place, os.environ, context=context, purge=purge, timeout_s=timeout_s)


def _settings(overlays: tuple[str, ...]) -> KubernetesSettings:
    environ = dict(os.environ)
    if overlays:
        environ["K8S_OVERLAYS"] = " ".join(overlays)
    return KubernetesSettings.from_env(environ)
