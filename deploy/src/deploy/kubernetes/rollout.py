"""Starts and stops microservices in a cluster without a failed request.

In the order of deploy.rollout: start the new pods, wait until they are ready, point the clients'
variations to them, wait until every Envoy uses them, remove what has no traffic. A failure before
the variations change restores the microservices. One that is replaced under its own name keeps its
host name; its Deployment replaces the pods one by one in the same order.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from deploy import assignments
from deploy.assignments import Assignments
from deploy.console import say, step
from deploy.errors import ClusterError, MicroserviceRefused
from deploy.kubernetes import gateway_view
from deploy.kubernetes.api import Object, Reference
from deploy.kubernetes.cluster import Change
from deploy.kubernetes.control_plane import ControlPlane
from deploy.kubernetes.objects.serving import (
    PORTS,
    Microservice,
    microservice,
    object_name,
    own_labels,
    sizing_of,
)
from deploy.kubernetes.session import Session
from deploy.kubernetes.settings import DATA_FOLDER, KubernetesSettings
from deploy.kubernetes.waiting import replace_failing, wait_ready
from deploy.microservices import Api, Entry
from seldon_gateway.strategies import Endpoint, Variation

_REMOVED_S = 120.0
_LONGEST_NAME = 58  # a host name has 63 letters, with -rest or -grpc at its end
_NAME = re.compile(rf"[a-z][-a-z0-9]{{0,{_LONGEST_NAME - 1}}}")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/@-]{0,254}")


@dataclass(frozen=True)
class Planned:
    """The planned rollout of one microservice."""

    microservice: Microservice
    ratio: float

    @property
    def variation(self) -> Variation:
        """The variation that routes to it."""
        it = self.microservice
        return Variation(it.name, self.ratio, (endpoint(it.name, it.api),))


def endpoint(name: str, api: Api) -> Endpoint:
    """A microservice's endpoint: a host name that resolves to every ready pod."""
    return Endpoint(object_name(name, api), PORTS[api])


def plan(
    settings: KubernetesSettings,
    from_images: Sequence[Entry],
    from_folders: Sequence[Entry],
    replicas: int | None,
) -> list[Planned]:
    """Plan the rollout of the entries.

    Args:
        settings: Of the stack.
        from_images: Their source is an image with a server and its model.
        from_folders: Their source is a model folder on the cluster's volume.
        replicas: Pods of each; None leaves that to the settings.

    Raises:
        MicroserviceRefused: Names the microservice, the value and what was expected.
    """
    planned = []
    for entry in [*from_images, *from_folders]:
        _check_name(entry.name)
        sizing = sizing_of(settings, entry.api)
        if replicas is not None:
            sizing = replace(
                sizing,
                replicas=replicas,
                max_replicas=max(replicas, sizing.max_replicas) if sizing.max_replicas else 0,
            )
        wanted = Microservice(
            entry.name, entry.api, sizing, environment=settings.server_environment[entry.api]
        )
        if entry in from_folders:
            wanted = replace(wanted, folder=_folder(entry))
        else:
            wanted = replace(wanted, image=_image(entry))
        planned.append(Planned(wanted, entry.ratio))
    return planned


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise MicroserviceRefused(
            f"microservice name is {name!r}, expected a Service name: a letter, then lower-case "
            f"letters, digits and dashes, at most {_LONGEST_NAME} characters"
        )


def _folder(entry: Entry) -> str:
    folder = entry.source.rstrip("/")
    if not folder.startswith(f"{DATA_FOLDER}/") or ".." in folder.split("/"):
        raise MicroserviceRefused(
            f"microservice {entry.name}: folder is {entry.source!r}, expected one on the cluster's "
            f"volume such as {DATA_FOLDER}/seldon-models/deep_mnist/1; set MODEL_SOURCE to "
            "download a model to it"
        )
    return folder


def _image(entry: Entry) -> str:
    if not _IMAGE.fullmatch(entry.source):
        raise MicroserviceRefused(
            f"microservice {entry.name}: image is {entry.source!r}, expected a reference such as "
            "registry.example/team/my-model:1"
        )
    return entry.source


class Rollout:
    """The microservices of one stack in a cluster."""

    def __init__(self, at: Session, control: ControlPlane, timeout_s: float) -> None:
        """Touch nothing.

        Args:
            at: Which stack.
            control: Its registry.
            timeout_s: For all new pods to become ready.
        """
        self._at = at
        self._control = control
        self._timeout_s = timeout_s

    def start(self, client: str, planned: Sequence[Planned], *, force: bool = False) -> bool:
        """Serve `client` with these; other protocols are unchanged.

        Args:
            client: Its variations are replaced, protocol by protocol.
            planned: See plan.
            force: Take over fields of the objects that others set.

        Returns:
            Whether anything changed.

        Raises:
            MicroserviceRefused: There is no such client.
            WorkloadFailed, ClusterTimeout: Pods do not become ready; the old ones keep serving.
            ClusterError: The cluster, or the control plane, refuses.
        """
        before = self._control.assignments()
        if not any(name == client for name, _ in before):
            raise MicroserviceRefused(
                f"client {client} does not exist; set it up with seldon-cli client --action setup "
                f"--db-name ClientDB --client-name {client}"
            )
        after = before | assignments.of_client(
            client, [(one.microservice.api, one.variation) for one in planned]
        )
        objects = [
            made for one in planned for made in microservice(self._at.settings, one.microservice)
        ]
        undo, moving = _Undo(self._at, objects), False
        try:
            changed = self._apply(objects, force)
            for outcome in replace_failing(self._at.api, objects):
                say(str(outcome))
            wait_ready(self._at.api, objects, self._timeout_s)
            if assignments.changed(before, after):
                changed = moving = True
                with step(f"moving the traffic of client {client}"):
                    self._control.move(before, after)
        except BaseException:
            if not (moving and self._may_have_moved(before)):
                undo.run()
            raise
        # Even without a change: an earlier run may have been interrupted here.
        self._await_gateway()
        return bool(self._at.cluster.remove(self._needless(planned, objects), _REMOVED_S)) | changed

    def stop(self, name: str, apis: Iterable[Api]) -> None:
        """Stop a microservice; a client without another one is left without.

        Raises:
            MicroserviceRefused: There is none of that name, or it shares a client's traffic.
            ClusterError: The cluster, or the control plane, refuses; nothing is removed then.
        """
        before = self._control.assignments()
        after, found = dict(before), list[Object]()
        for api in apis:
            after = assignments.without(after, name, api, {endpoint(name, api)})
            found += self._at.cluster.labelled(own_labels(name, api))
        if not found:
            raise MicroserviceRefused(
                f"no microservice {name} is running in namespace {self._at.place.namespace}; see "
                "make status TARGET=kubernetes"
            )
        if before != after:
            self._control.move(before, after)
        self._await_gateway()
        for client, protocol in assignments.changed(before, after):
            say(f"client {client} has no {protocol} variations now")
        self._at.cluster.remove(found, _REMOVED_S)

    def _await_gateway(self) -> None:
        at = self._at
        gateway_view.wait_until_taken(at.api, at.place, self._control, at.settings.poll_s)

    def _may_have_moved(self, before: Assignments) -> bool:
        """Whether an interrupted move may have reached the control plane."""
        try:
            return self._control.assignments() != before
        except ClusterError:
            return True

    def _apply(self, objects: Sequence[Object], force: bool) -> bool:
        changed = False
        for outcome in self._at.cluster.apply(objects, force=force):
            if outcome.change is not Change.UNCHANGED:
                changed = True
                say(str(outcome))
        return changed

    def _needless(self, planned: Sequence[Planned], objects: Sequence[Object]) -> list[Object]:
        """Objects that these microservices no longer need, such as an autoscaler."""
        wanted = {Reference.of(one) for one in objects}
        return [
            item
            for one in planned
            for item in self._at.cluster.labelled(
                own_labels(one.microservice.name, one.microservice.api)
            )
            if Reference.of(item) not in wanted
        ]


class _Undo:
    """Rolls back the changes of a failed start."""

    def __init__(self, at: Session, objects: Sequence[Object]) -> None:
        self._at = at
        self._objects = objects
        self._before = {Reference.of(one): at.api.read(Reference.of(one)) for one in objects}

    def run(self) -> None:
        """Remove new objects; restore the old template of existing Deployments."""
        new: list[Object] = []
        for item in self._objects:
            which = Reference.of(item)
            before, now = self._before[which], self._at.api.read(which)
            if now is None or not self._at.place.owns(now):
                continue
            if before is None:
                new.append(now)
            elif item["kind"] == "Deployment" and _is_another(before, now):
                self._at.api.apply(_restored(item, before), force=True)
        with step("rolling back"):
            self._at.cluster.remove(new, _REMOVED_S)


def _is_another(before: Object, now: Object) -> bool:
    return bool(before["metadata"]["generation"] != now["metadata"]["generation"])


def _restored(item: Object, before: Object) -> Object:
    """As `kubectl rollout undo` does it: the old template, and as many pods as before."""
    template = before["spec"]["template"]
    about = {key: value for key, value in template["metadata"].items() if value is not None}
    spec = {**item["spec"], "template": {**template, "metadata": about}}
    if "replicas" in spec:
        spec["replicas"] = before["spec"]["replicas"]
    return {**item, "spec": spec}
