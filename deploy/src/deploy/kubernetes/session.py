"""The session of a command in a cluster: its settings and its connection."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from deploy.console import step
from deploy.kubernetes.api import Api, connect
from deploy.kubernetes.cluster import Cluster, Place
from deploy.kubernetes.settings import KubernetesSettings


@dataclass(frozen=True)
class Session:
    """One stack in one cluster."""

    settings: KubernetesSettings
    cluster: Cluster

    @property
    def api(self) -> Api:
        """The cluster's API."""
        return self.cluster.api

    @property
    def place(self) -> Place:
        """Where in the cluster the stack is."""
        return self.cluster.place


def place_of(settings: KubernetesSettings) -> Place:
    """Where the stack of these settings lives."""
    return Place(settings.namespace, settings.instance)


@contextmanager
def session(
    environ: Mapping[str, str] = os.environ, context: str | None = None, *, quiet: bool = False
) -> Iterator[Session]:
    """Read the settings and connect to the cluster.

    Args:
        environ: docs/kubernetes.md has the variables.
        context: Context of the kubeconfig file; None for the current one.
        quiet: Show no progress.

    Raises:
        SettingInvalid: Names the variable.
        ClusterError: The cluster cannot be used.
    """
    settings = KubernetesSettings.from_env(environ)
    if quiet:
        api = connect(environ, context)
    else:
        with step("connecting to the cluster"):
            api = connect(environ, context)
    with api:
        yield Session(settings, Cluster(api, place_of(settings)))
