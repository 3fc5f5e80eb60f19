"""Volumes: the shared one of the models, and those of single pods."""

from typing import Any

from deploy.kubernetes.objects.common import ONE_NODE, Object, an_object, together
from deploy.kubernetes.settings import DATA_FOLDER, KubernetesSettings

DATA_CLAIM = "seldon-claim"  # the original's name


def data_volume(settings: KubernetesSettings) -> list[Object]:
    """The volume with the models, unless there is one."""
    volume = settings.volume
    if volume.claim is not None:
        return []
    return _claim(
        settings,
        DATA_CLAIM,
        settings.storage_size,
        volume.access_mode,
        volume.source,
        "seldon-data",
    )


def own_volume(settings: KubernetesSettings, name: str, size: str, program: str) -> list[Object]:
    """A volume of one pod: never NFS, whose locks SQLite and Prometheus cannot rely on."""
    source = settings.volume.source or {}
    if "hostPath" in source:
        path = f"{source['hostPath']['path'].rstrip('/')}/{name}"
        return _claim(settings, name, size, "ReadWriteOnce", {"hostPath": {"path": path}}, program)
    return _claim(settings, name, size, "ReadWriteOnce", None, program)


def data_mount(settings: KubernetesSettings, *, read_only: bool) -> tuple[Object, Object]:
    """The shared volume as a pod names it, and where a container has it."""
    claim = settings.volume.claim or DATA_CLAIM
    mount: Object = {"name": "data", "mountPath": DATA_FOLDER}
    if read_only:
        mount["readOnly"] = True
    return {"name": "data", "persistentVolumeClaim": {"claimName": claim}}, mount


def claimed(name: str, path: str) -> tuple[Object, Object]:
    """A volume of one pod, likewise."""
    return (
        {"name": name, "persistentVolumeClaim": {"claimName": name}},
        {"name": name, "mountPath": path},
    )


def on_one_node(settings: KubernetesSettings) -> bool:
    """Whether all who mount the shared volume must be on one node."""
    return settings.volume.access_mode == "ReadWriteOnce"


def one_node_labels(settings: KubernetesSettings) -> dict[str, str]:
    """What those pods are known by, if so."""
    return {ONE_NODE: settings.instance} if on_one_node(settings) else {}


def one_node(settings: KubernetesSettings) -> Object:
    """What brings them together, if so."""
    return together(settings) if on_one_node(settings) else {}


def _claim(
    settings: KubernetesSettings,
    name: str,
    size: str,
    access_mode: str,
    source: Any,
    program: str,
) -> list[Object]:
    spec: Object = {
        "accessModes": [access_mode],
        "resources": {"requests": {"storage": size}},
    }
    if source is None:
        if settings.storage_class is not None:
            spec["storageClassName"] = settings.storage_class
        return [an_object(settings, "v1", "PersistentVolumeClaim", name, program, spec=spec)]
    # Pods may not mount a node's folder or NFS themselves under Pod Security's `restricted`.
    volume_name = f"{settings.namespace}-{name}"
    if "hostPath" in source:
        source = {"hostPath": {**source["hostPath"], "type": "DirectoryOrCreate"}}
    volume = an_object(
        settings,
        "v1",
        "PersistentVolume",
        volume_name,
        program,
        spec={
            "capacity": {"storage": size},
            "accessModes": [access_mode],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            # Reserved for this claim.
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "name": name,
                "namespace": settings.namespace,
            },
            **source,
        },
    )
    del volume["metadata"]["namespace"]
    spec |= {"storageClassName": "", "volumeName": volume_name}
    return [volume, an_object(settings, "v1", "PersistentVolumeClaim", name, program, spec=spec)]
