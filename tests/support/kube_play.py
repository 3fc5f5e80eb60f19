"""Rendered Kubernetes objects, played by `podman kube play`.

What podman 4.3 cannot do is done here, and nothing else: each place says what it is.
"""

import base64
import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from podman import Podman

Object = dict[str, Any]

# podman 4.3 removes an init container as soon as it has ended, and may then find that it runs.
_KEPT = {"io.podman.annotations.init.container.type": "always"}
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_PROBER = Path(__file__).with_name("kubelet_probes.py")


class KubePlay:
    """Claims and pods of one rendering, on one network."""

    def __init__(
        self,
        podman: Podman,
        network: str,
        manifest: str,
        published: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """`published`: a workload's ports by name, and where they are reached on loopback."""
        self._podman = podman
        self._network = network
        self._published = published or {}
        self._objects = [made for made in yaml.safe_load_all(manifest) if made]
        self._folder = podman.home / "kube"
        self._folder.mkdir(exist_ok=True)

    # Claims and Secrets

    def claim(self) -> None:
        """Make the volumes that no PersistentVolume is."""
        for claim in self._of_kind("PersistentVolumeClaim"):
            if "volumeName" not in claim["spec"]:
                self._play(claim)

    def source(self, claim: str) -> str:
        """The volume or the folder behind a claim, for `podman run --volume`."""
        return self._host_paths().get(claim, claim)

    def secret(self, name: str, values: Mapping[str, str]) -> None:
        """A Secret: podman 4.3 does not play them, its pods read podman's own."""
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        self._podman("secret", "create", name, "-", text=json.dumps(encoded))

    # Pods

    def play(self, workload: str, number: int = 0) -> str:
        """Start one pod of a Deployment or a Job; its name, which its containers' begin with."""
        template = self.template(workload)
        name = f"{workload}-{number}"
        # podman has no Services: other pods find this one by its names in podman's own DNS.
        names = [name, *(one["metadata"]["name"] for one in self._services(template))]
        self._play(
            {
                # podman knows no Job, and calls a Deployment's pod by a name of its own.
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "labels": template["metadata"]["labels"],
                    "annotations": {**template["metadata"].get("annotations", {}), **_KEPT},
                },
                "spec": self._playable(template["spec"], name, self._published.get(workload, {})),
            },
            f"--network={self._network}:{','.join(f'alias={one}' for one in names)}",
        )
        return name

    def down(self, pod: str) -> None:
        """`podman kube down`."""
        self._podman("kube", "down", str(self._folder / f"Pod-{pod}.yaml"))

    def probe(self, *pods: str, image: str) -> None:
        """Wait until the pods' probes pass: made as a kubelet makes them, from the same network."""
        wanted = [
            {"host": pod, "kind": kind, "probe": _with_numbers(container[kind], container)}
            for kind in _PROBES
            for pod in pods
            for container in self.template(pod.rpartition("-")[0])["spec"]["containers"]
            if kind in container
        ]
        assert wanted
        self._podman.run(
            *("--rm", "--interactive", "--network", self._network, image),
            *("python", "-", json.dumps(wanted)),
            text=_PROBER.read_text(),
        )

    def template(self, workload: str) -> Object:
        """As it was rendered."""
        (found,) = (
            made["spec"]["template"]
            for made in self._of_kind("Deployment", "Job")
            if made["metadata"]["name"] == workload
        )
        return dict(found)

    def workloads(self) -> list[str]:
        """Deployments and Jobs, in the order in which they are applied."""
        return [made["metadata"]["name"] for made in self._of_kind("Deployment", "Job")]

    def _playable(self, rendered: Object, name: str, published: Mapping[str, int]) -> Object:
        spec = copy.deepcopy(rendered)
        # podman's emptyDir is one volume for all pods that name it alike.
        own = {one["name"]: f"{name}-{one['name']}" for one in spec["volumes"] if "emptyDir" in one}
        paths = self._host_paths()
        for volume in spec["volumes"]:
            volume["name"] = own.get(volume["name"], volume["name"])
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim in paths:
                # podman has no PersistentVolumes.
                del volume["persistentVolumeClaim"]
                volume["hostPath"] = {"path": paths[claim], "type": "DirectoryOrCreate"}
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            for mount in container["volumeMounts"]:
                mount["name"] = own.get(mount["name"], mount["name"])
            # podman makes them with curl and nc in the container, takes port 0 for a port's name,
            # and knows none of gRPC: see probe.
            for kind in _PROBES:
                container.pop(kind, None)
            # podman publishes every one of them, on all addresses.
            container["ports"] = [
                {**port, "hostPort": published[port["name"]], "hostIP": "127.0.0.1"}
                for port in container.get("ports", [])
                if port["name"] in published
            ]
            if "command" in container:
                container["command"] = [self._with_ports(word) for word in container["command"]]
        return spec

    def _with_ports(self, word: str) -> str:
        """Where a Service has another port than its pods: a name in DNS changes none."""
        for service in self._of_kind("Service"):
            url = f"http://{service['metadata']['name']}"
            for port in service["spec"]["ports"]:
                if word == url and port["port"] == 80:
                    return f"{url}:{self._container_port(service, port['targetPort'])}"
        return word

    def _container_port(self, service: Object, name: str) -> int:
        (number,) = {
            port["containerPort"]
            for workload in self.workloads()
            if service in self._services(self.template(workload))
            for container in self.template(workload)["spec"]["containers"]
            for port in container.get("ports", [])
            if port["name"] == name
        }
        return int(number)

    def _services(self, template: Object) -> list[Object]:
        labels = template["metadata"]["labels"].items()
        return [
            service
            for service in self._of_kind("Service")
            if service["spec"]["selector"].items() <= labels
        ]

    def _host_paths(self) -> dict[str, str]:
        return {
            volume["spec"]["claimRef"]["name"]: volume["spec"]["hostPath"]["path"]
            for volume in self._of_kind("PersistentVolume")
        }

    def _of_kind(self, *kinds: str) -> Iterator[Object]:
        return (made for made in self._objects if made["kind"] in kinds)

    def _play(self, made: Object, *options: str) -> None:
        path = self._folder / f"{made['kind']}-{made['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(made, sort_keys=False))
        self._podman("kube", "play", *options, str(path))


def _with_numbers(probe: Object, container: Object) -> Object:
    """A probe whose port has its number."""
    numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
    return {
        key: {**value, "port": numbers.get(value["port"], value["port"])}
        if isinstance(value, dict)
        else value
        for key, value in probe.items()
    }
