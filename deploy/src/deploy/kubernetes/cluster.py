"""Our objects in one namespace of a cluster: applied, pruned, deleted.

Labels mark our objects; no other object is ever changed or removed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from deploy.console import follow
from deploy.errors import ClusterForbidden, ClusterRefused, ClusterTimeout, NotManaged
from deploy.kubernetes.api import Api, Object, Reference
from deploy.kubernetes.changes import changed_paths
from deploy.kubernetes.objects.common import ON_ITS_OWN

MANAGED_BY = "app.kubernetes.io/managed-by"
INSTANCE = "app.kubernetes.io/instance"
OURS = "prediction-services"

# Kinds that a cluster may lack: scraped by Prometheus's operator, where there is one.
OPTIONAL_GROUPS = frozenset({"monitoring.coreos.com"})

# Data, which only PURGE=1 removes.
_VOLUME = "PersistentVolume"
_KEPT = frozenset({"PersistentVolumeClaim", _VOLUME})
_SERVES = frozenset({"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"})
_MAIN = frozenset({"Deployment", "Service", "ConfigMap"})
# Copies of a Service's or a Pod's labels, which controllers make and remove.
_DERIVED = frozenset({"Endpoints", "EndpointSlice", "Event", "PodMetrics"})
# Objects that Kubernetes creates in every namespace.
_BUILT_IN = frozenset({("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")})
_REMAKE_S = 60.0


class Change(StrEnum):
    """What happened to an object."""

    CREATED = "created"
    CONFIGURED = "configured"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    KEPT = "kept"
    REMOVED = "removed"


@dataclass(frozen=True)
class Outcome:
    """The outcome for one object."""

    which: Reference
    change: Change
    detail: str = ""

    def __str__(self) -> str:
        """`Deployment envoy: created`."""
        return f"{self.which}: {self.change}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Place:
    """Where a stack lives.

    Attributes:
        namespace: Its namespace.
        instance: The value of its objects' label app.kubernetes.io/instance.
    """

    namespace: str
    instance: str

    @property
    def labels(self) -> dict[str, str]:
        """The labels of every object of the stack."""
        return {MANAGED_BY: OURS, INSTANCE: self.instance}

    @property
    def selector(self) -> str:
        """The labels as a selector."""
        return ",".join(f"{name}={value}" for name, value in self.labels.items())

    def owns(self, item: Object) -> bool:
        """Whether the object is of this stack."""
        labels = item["metadata"].get("labels") or {}
        return all(labels.get(name) == value for name, value in self.labels.items())


class Cluster:
    """One stack's objects in a cluster.

    Attributes:
        unseen: Kinds that this login may not list, so that ours were not found.
    """

    def __init__(self, api: Api, place: Place) -> None:
        self.api = api
        self.place = place
        self.unseen: list[str] = []

    def apply(
        self, objects: Sequence[Object], *, dry_run: bool = False, force: bool = False
    ) -> Iterator[Outcome]:
        """Create or update each object by server-side apply, the namespace first.

        Stops at a field that another manager owns: it may be an operator's repair or an
        autoscaler's decision. `force` takes such fields over; other fields of the objects are never
        touched.

        Args:
            objects: In the order in which they are to be applied.
            dry_run: Have the cluster check everything and change nothing.
            force: Take over fields that others set.

        Yields:
            The outcome of each object; a second run completes one that failed.

        Raises:
            NotManaged: An object of that name is not of this stack.
            FieldConflict: Others set fields of it.
            ClusterError: The cluster rejects it.
        """
        self._check(objects)
        absent = False
        for item in sorted(objects, key=lambda item: item["kind"] != "Namespace"):
            if item["kind"] == "Namespace":
                outcome = self._apply_namespace(item, dry_run, force)
                absent = dry_run and outcome.change is Change.CREATED
                yield outcome
            elif self._is_unknown(item):
                yield Outcome(
                    Reference.of(item),
                    Change.SKIPPED,
                    f"this cluster has no {item['kind']} of {item['apiVersion']}",
                )
            elif absent:  # a dry run in a namespace that is not there yet answers 404
                yield Outcome(Reference.of(item), Change.CREATED)
            else:
                yield self._apply_one(item, dry_run, force)

    def stale(self, objects: Sequence[Object]) -> list[Object]:
        """Our objects that are not in the list, except data and separately managed ones."""
        wanted = {Reference.of(item) for item in objects}
        return [
            item
            for item in self._ours()
            if item["kind"] not in _KEPT
            and ON_ITS_OWN not in item["metadata"]["labels"]
            and Reference.of(item) not in wanted
        ]

    def labelled(self, labels: Mapping[str, str]) -> list[Object]:
        """Our objects that have these labels too, except data."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        found = self._present(f"{self.place.selector},{selector}")
        return [item for item in found if self.place.owns(item) and item["kind"] not in _KEPT]

    def remove(self, items: Sequence[Object], timeout_s: float) -> list[Outcome]:
        """Remove these, and wait until they are gone."""
        return self._remove(items, timeout_s)

    def prune(self, objects: Sequence[Object], timeout_s: float) -> list[Outcome]:
        """Remove what `stale` lists, and wait until it is gone."""
        return self._remove(self.stale(objects), timeout_s)

    def delete(self, *, purge: bool, timeout_s: float) -> list[Outcome]:
        """Remove our objects in the namespace and wait until they are gone; safe to repeat.

        Args:
            purge: Volumes and their data too; the namespace, when it is ours and nobody else
                has anything in it.
            timeout_s: To wait, for each of the two.

        Raises:
            ClusterTimeout: Something is not gone by then; a second run goes on.
            ClusterError: The cluster refuses.
        """
        namespace = self._namespace()
        if namespace is not None and namespace["metadata"].get("deletionTimestamp"):
            self._wait_until_gone([namespace], timeout_s)
            return [Outcome(Reference.of(namespace), Change.REMOVED)]
        ours = self._ours()
        outcomes = self._remove([one for one in ours if one["kind"] not in _KEPT], timeout_s)
        data = [one for one in ours if one["kind"] in _KEPT]
        if not purge:
            kept = [
                Outcome(Reference.of(one), Change.KEPT, "data; PURGE=1 removes it") for one in data
            ]
            return outcomes + kept
        outcomes += self._remove(data, timeout_s)
        if namespace is None or not self.place.owns(namespace):
            return outcomes
        if strangers := self._strangers():
            detail = f"has objects of others: {', '.join(strangers[:5])}"
            return [*outcomes, Outcome(Reference.of(namespace), Change.KEPT, detail)]
        if self.unseen:
            detail = f"may have objects of others, not listable: {', '.join(self.unseen)}"
            return [*outcomes, Outcome(Reference.of(namespace), Change.KEPT, detail)]
        return outcomes + self._remove([namespace], timeout_s)

    def _check(self, objects: Sequence[Object]) -> None:
        """Refuse what `delete` would not find again."""
        for item in objects:
            which = Reference.of(item)
            if not self.place.owns(item):
                raise ClusterRefused(f"{which} lacks the labels {self.place.selector}; add them")
            if item["kind"] == "Namespace":
                if which.name != self.place.namespace:
                    raise ClusterRefused(f"{which} is not {self.place.namespace}; correct it")
            elif item["kind"] == _VOLUME:
                # In no namespace, but for one claim alone.
                if not self._is_for_us(item):
                    raise ClusterRefused(
                        f"{which} is for no claim in {self.place.namespace}; correct its claimRef"
                    )
            elif which.namespace != self.place.namespace:
                raise ClusterRefused(
                    f"{which} is for namespace {which.namespace}, expected "
                    f"{self.place.namespace}; correct its metadata.namespace"
                )

    def _is_unknown(self, item: Object) -> bool:
        which = Reference.of(item)
        return which.group in OPTIONAL_GROUPS and not self.api.knows(which.api_version, which.kind)

    def _apply_namespace(self, item: Object, dry_run: bool, force: bool) -> Outcome:
        """Apply the namespace, unless somebody else, such as an administrator, made it."""
        which = Reference.of(item)
        try:
            before = self.api.read(which)
        except ClusterForbidden:
            return Outcome(which, Change.SKIPPED, "no permission to read it, assumed to exist")
        if before is not None and not self.place.owns(before):
            return Outcome(which, Change.SKIPPED, "not created by this stack, left as it is")
        return self._apply_one(item, dry_run, force)

    def _apply_one(self, item: Object, dry_run: bool, force: bool) -> Outcome:
        which = Reference.of(item)
        before = self.api.read(which)
        if before is None:
            self.api.apply(item, dry_run=dry_run, force=force)
            return Outcome(which, Change.CREATED)
        if not self.place.owns(before):
            raise NotManaged(
                f"{which} already exists in namespace {self.place.namespace} without the "
                f"labels {self.place.selector}; remove it, or choose another namespace"
            )
        if item["kind"] == "Job" and self._is_spent(item, before, force):
            if not dry_run:
                self.api.delete(before)
                self._wait_until_gone([before], _REMAKE_S)
                self.api.apply(item, force=force)
            return Outcome(which, Change.REPLACED)
        after = self.api.apply(item, dry_run=dry_run, force=force)
        # Another version may be due to a controller, which wrote the status in the meantime.
        paths = [] if _is_stored(before, after, dry_run) else changed_paths(before, after)
        if not paths:
            return Outcome(which, Change.UNCHANGED)
        return Outcome(which, Change.CONFIGURED, ", ".join(paths))

    def _is_spent(self, item: Object, before: Object, force: bool) -> bool:
        """Whether a Job must be replaced: it has failed, or its template differs.

        A Job runs once, and its template is immutable.
        """
        if before["metadata"].get("deletionTimestamp") or _has_failed(before):
            return True
        try:
            self.api.apply(item, dry_run=True, force=force)
        except ClusterRefused as error:
            if "field is immutable" in str(error):
                return True
            raise
        return False

    def _ours(self) -> list[Object]:
        """Objects with our labels that no controller owns."""
        found = [item for item in self._present(self.place.selector) if self.place.owns(item)]
        return found + self._volumes()

    def _volumes(self) -> list[Object]:
        try:
            found = self.api.list("v1", _VOLUME, None, labels=self.place.selector)
        except ClusterForbidden:
            return []  # who may not see volumes has made none
        return [item for item in found if self._is_for_us(item)]

    def _is_for_us(self, volume: Object) -> bool:
        claim = volume["spec"].get("claimRef") or {}
        return bool(claim.get("namespace") == self.place.namespace)

    def _strangers(self) -> list[str]:
        found = self._present(None)
        return [
            str(Reference.of(item))
            for item in found
            if (item["kind"], item["metadata"]["name"]) not in _BUILT_IN
        ]

    def _present(self, selector: str | None) -> list[Object]:
        if self._namespace_is_missing():
            return []
        found: list[Object] = []
        self.unseen = []
        for api_version, kind in self.api.removable_kinds():
            if kind in _DERIVED:
                continue
            try:
                found += self.api.list(api_version, kind, self.place.namespace, labels=selector)
            except ClusterForbidden:
                # Few logins may list every kind; without the main ones there is no use.
                if kind in _MAIN:
                    raise
                self.unseen.append(kind)
        return [item for item in found if not _is_owned(item)]

    def _namespace(self) -> Object | None:
        which = Reference("v1", "Namespace", self.place.namespace)
        try:
            return self.api.read(which)
        except ClusterForbidden:
            return None

    def _namespace_is_missing(self) -> bool:
        try:
            return self.api.read(Reference("v1", "Namespace", self.place.namespace)) is None
        except ClusterForbidden:
            return False

    def _remove(self, items: Sequence[Object], timeout_s: float) -> list[Outcome]:
        # Workloads first, while their Services and settings exist, so that they stop cleanly.
        for item in sorted(items, key=lambda item: item["kind"] not in _SERVES):
            self.api.delete(item)
        self._wait_until_gone(items, timeout_s)
        return [Outcome(Reference.of(item), Change.REMOVED) for item in items]

    def _wait_until_gone(self, items: Sequence[Object], timeout_s: float) -> None:
        left = list(items)

        def look() -> str:
            left[:] = [item for item in left if self._is_there(item)]
            names = ", ".join(str(Reference.of(item)) for item in left)
            return f"waiting for deletion of {names}" if names else ""

        if not follow(look, timeout_s, every_s=0.5):
            return
        names = ", ".join(self._why_there(item) for item in left)
        raise ClusterTimeout(
            f"not deleted from namespace {self.place.namespace} within {timeout_s:.0f} s: {names}; "
            "run the command again to keep waiting"
        )

    def _is_there(self, item: Object) -> bool:
        now = self.api.read(Reference.of(item))
        return now is not None and now["metadata"]["uid"] == item["metadata"]["uid"]

    def _why_there(self, item: Object) -> str:
        now = self.api.read(Reference.of(item)) or item
        finalizers = now["metadata"].get("finalizers") or now.get("spec", {}).get("finalizers")
        waits = f" (waits for {', '.join(finalizers)})" if finalizers else ""
        return f"{Reference.of(item)}{waits}"


def _is_stored(before: Object, after: Object, dry_run: bool) -> bool:
    """Whether the stored version is unchanged; a dry run keeps the old version number."""
    versions = {item["metadata"].get("resourceVersion") for item in (before, after)}
    return len(versions) == 1 and not dry_run


def _has_failed(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions") or []
    return any(one["type"] == "Failed" and one["status"] == "True" for one in conditions)


def _is_owned(item: Object) -> bool:
    owners = item["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") for owner in owners)
