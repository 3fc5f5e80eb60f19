"""`python -m deploy manifests`: the stack as YAML for Kubernetes."""

import os
from pathlib import Path

import click

from deploy.commands.base import StackCommand, debug_option
from deploy.kubernetes import manifests
from deploy.kubernetes.settings import OVERLAYS, KubernetesSettings
from deploy.kubernetes.stack import needed_secrets, stack


@click.command("manifests", cls=StackCommand)
@click.option(
    "--overlay",
    "overlays",
    multiple=True,
    help=f"One of {', '.join(OVERLAYS)}; may repeat.  [default: K8S_OVERLAYS]",
)
@click.option(
    "--output", default="manifests", show_default=True, help="Folder to write to; - for stdout."
)
@debug_option
def write_manifests(overlays: tuple[str, ...], output: str) -> None:
    """Write the stack as YAML for kubectl apply.

    docs/kubernetes.md lists its variables.
    """
    environ = dict(os.environ)
    if overlays:
        environ["K8S_OVERLAYS"] = " ".join(overlays)
    settings = KubernetesSettings.from_env(environ)
    wants_files = "monitoring" in settings.overlays
    objects = stack(settings, manifests.monitoring_files(Path.cwd()) if wants_files else {})
    if output == "-":
        click.echo(manifests.as_yaml(objects), nl=False)
    else:
        manifests.write(objects, Path(output))
    for secret in needed_secrets(settings):
        click.echo(
            f"needs the Secret {secret.name} with {', '.join(secret.keys)}: {secret.what}", err=True
        )
