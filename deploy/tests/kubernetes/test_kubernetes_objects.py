"""What holds for the objects of every overlay, storage, service type and size."""

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from deploy import images
from deploy.deployment import MICROSERVICE
from deploy.kubernetes.objects.serving import DEFAULT, Microservice, microservice
from deploy.kubernetes.settings import KubernetesSettings
from deploy.kubernetes.stack import needed_secrets, stack
from deploy.microservices import Api
from serving_core import read_model_folder

ROOT = Path(__file__).parents[3]

# The oldest that sleeps before it stops a container without being told to, and the newest known.
VERSIONS = ("1.30", kubernetes_validate.latest_version())

# Kinds of the Prometheus operator: their schemas come with it.
NOT_OF_KUBERNETES = {"PodMonitor"}
# What a pod may mount at Pod Security's level `restricted`.
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
Object = dict[str, Any]
Stacks = list[list[Object]]


def distinct(every_stack: Stacks) -> list[Object]:
    found = {json.dumps(made, sort_keys=True): made for objects in every_stack for made in objects}
    return list(found.values())


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for made in objects:
        if made["kind"] in ("Deployment", "Job"):
            yield made["metadata"]["name"], made["spec"]["template"]


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    return {made["metadata"]["name"]: made for made in objects if made["kind"] == kind}


def render(**environ: str) -> list[Object]:
    return stack(KubernetesSettings.from_env(environ), {})


def selects(wanted: dict[str, str], template: Object) -> bool:
    return wanted.items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(every_stack: Stacks, version: str) -> None:
    kinds = set()
    for made in distinct(every_stack):
        kinds.add(made["kind"])
        if made["kind"] not in NOT_OF_KUBERNETES:
            kubernetes_validate.validate(made, version, strict=True)
    assert kinds >= {
        "Namespace", "NetworkPolicy", "PersistentVolume", "PersistentVolumeClaim",
        "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Service", "Job", "Deployment",
        "PodDisruptionBudget", "HorizontalPodAutoscaler", "PodMonitor",
    }  # fmt: skip


def test_a_field_that_there_is_not_is_noticed(every_stack: Stacks) -> None:
    deployment = copy.deepcopy(next(iter(of_kind(every_stack[0], "Deployment").values())))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    for version in VERSIONS:
        with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
            kubernetes_validate.validate(deployment, version, strict=True)


def test_pods_pass_pod_security_restricted(every_stack: Stacks) -> None:
    for objects in every_stack:
        for _, template in pods(objects):
            spec = template["spec"]
            for word in ("hostNetwork", "hostPID", "hostIPC"):
                assert not spec.get(word)
            security = spec["securityContext"]
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] > 0
            assert security["seccompProfile"]["type"] == "RuntimeDefault"
            for volume in spec["volumes"]:
                assert volume.keys() - {"name"} <= VOLUMES
            for container in spec["containers"] + spec.get("initContainers", []):
                own = container["securityContext"]
                assert own["allowPrivilegeEscalation"] is False
                assert own["capabilities"] == {"drop": ["ALL"]}
                assert not own.keys() & {"privileged", "runAsUser", "runAsNonRoot", "procMount"}
                assert not any("hostPort" in port for port in container.get("ports", []))


def test_containers_have_more_than_restricted_asks_for(every_stack: Stacks) -> None:
    for objects in every_stack:
        for name, template in pods(objects):
            # Prometheus alone asks the API, for the pods that it scrapes.
            spec = template["spec"]
            assert spec["automountServiceAccountToken"] is (name == "prometheus")
            for container in spec["containers"] + spec.get("initContainers", []):
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                resources = container["resources"]
                assert resources["requests"].keys() == {"cpu", "memory"}
                assert "memory" in resources["limits"]


def test_every_object_carries_the_labels(every_stack: Stacks) -> None:
    for made in distinct(every_stack):
        labels = made["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "prediction-services"
        assert labels["app.kubernetes.io/managed-by"] == "prediction-services"
        assert labels["app.kubernetes.io/instance"] == "prediction-services"
        assert labels["app.kubernetes.io/name"]


def test_no_two_objects_have_one_name_and_all_are_in_the_namespace(every_stack: Stacks) -> None:
    for objects in every_stack:
        names = [(made["kind"], made["metadata"]["name"]) for made in objects]
        assert len(names) == len(set(names))
        for made in objects:
            in_none = made["kind"] in ("Namespace", "PersistentVolume")
            namespace = made["metadata"].get("namespace")
            assert namespace == (None if in_none else "prediction-services")


def test_selectors_select_the_pods_of_one_workload(every_stack: Stacks) -> None:
    for objects in every_stack:
        templates = dict(pods(objects))
        for name, made in of_kind(objects, "Deployment").items():
            wanted = made["spec"]["selector"]["matchLabels"]
            assert [n for n, template in templates.items() if selects(wanted, template)] == [name]
        for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
            for name, made in of_kind(objects, kind).items():
                spec = made["spec"]
                wanted = spec.get("podSelector", spec.get("selector", {}))
                wanted = wanted.get("matchLabels", wanted)
                chosen = [n for n, template in templates.items() if selects(wanted, template)]
                assert len(chosen) == (len(templates) if name == "default-deny" else 1), name
        for name, made in of_kind(objects, "HorizontalPodAutoscaler").items():
            target = of_kind(objects, "Deployment")[made["spec"]["scaleTargetRef"]["name"]]
            assert "replicas" not in target["spec"], name


def test_whoever_a_policy_lets_in_is_there(every_stack: Stacks) -> None:
    """A caller that is named wrongly would be kept out, and nobody would see it here."""
    known = {"envoy", "prometheus", "grafana", "loadtest-worker"}
    for objects in every_stack:
        templates = dict(pods(objects))
        for made in of_kind(objects, "NetworkPolicy").values():
            for rule in made["spec"].get("ingress", []):
                for caller in rule.get("from", []):
                    wanted = caller["podSelector"]["matchLabels"]
                    assert wanted["app.kubernetes.io/name"] in known
                    if wanted["app.kubernetes.io/name"] in templates:
                        assert any(selects(wanted, template) for template in templates.values())


def test_ports_that_are_named_are_there(every_stack: Stacks) -> None:
    for objects in every_stack:
        for made in objects:
            spec = made.get("spec", {})
            if made["kind"] == "Service":
                wanted, names = spec["selector"], {port["targetPort"] for port in spec["ports"]}
            elif made["kind"] == "NetworkPolicy":
                wanted = spec["podSelector"]["matchLabels"]
                names = {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]}
            elif made["kind"] == "PodMonitor":
                wanted = spec["selector"]["matchLabels"]
                names = {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]}
            else:
                continue
            for _, template in pods(objects):
                if names and selects(wanted, template):
                    assert names <= port_names(template)
        for _, template in pods(objects):
            for container in template["spec"]["containers"]:
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    asked = container.get(probe, {})
                    port = asked.get("httpGet", asked.get("tcpSocket", {})).get("port")
                    assert port is None or port in port_names(template)


def port_names(template: Object) -> set[str]:
    return {
        port["name"]
        for container in template["spec"]["containers"]
        for port in container.get("ports", [])
    }


def test_what_a_pod_mounts_is_there(every_stack: Stacks) -> None:
    for objects in every_stack:
        claims = {*of_kind(objects, "PersistentVolumeClaim"), "models"}
        for _, template in pods(objects):
            volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
            mounted = {
                mount["name"]
                for container in template["spec"]["containers"]
                for mount in container["volumeMounts"]
            }
            assert mounted == volumes.keys()
            for volume in volumes.values():
                if "configMap" in volume:
                    assert volume["configMap"]["name"] in of_kind(objects, "ConfigMap")
                if "persistentVolumeClaim" in volume:
                    assert volume["persistentVolumeClaim"]["claimName"] in claims


@pytest.mark.parametrize("database", ["", "postgresql://seldon:hidden-password@db/seldon"])
def test_secrets_are_asked_for_by_name_and_nobody_else_reads_one(
    database: str, monitoring_files: dict[str, str]
) -> None:
    settings = KubernetesSettings.from_env(
        {
            "SELDON_DATABASE_URL": database,
            "K8S_OVERLAYS": "monitoring loadtest",
            "MODEL_SOURCE": "s3://models/1",
        }
    )
    objects = stack(settings, monitoring_files)
    assert not of_kind(objects, "Secret")
    text = json.dumps(objects)
    assert "hidden-password" not in text
    assert "hidden-password" not in repr(settings)
    read = set(re.findall(r'"secretName": "([^"]+)"', text))
    read |= set(re.findall(r'"secretKeyRef": {"name": "([^"]+)"', text))
    read |= set(re.findall(r'"secretRef": {"name": "([^"]+)"}', text))  # those not optional
    assert read == {secret.name for secret in needed_secrets(settings)}


def test_ports_and_users_are_those_of_the_images(every_stack: Stacks) -> None:
    dockerfiles = {image.name: (ROOT / image.dockerfile).read_text() for image in images.IMAGES}
    seen = set()
    for objects in every_stack:
        for _, template in pods(objects):
            for container in template["spec"]["containers"]:
                match = re.fullmatch(
                    r"localhost/prediction-services/([a-z-]+):[0-9.]+", container["image"]
                )
                if match is None:
                    continue
                seen.add(match[1])
                dockerfile = dockerfiles[match[1]]
                exposed = re.search(r"^EXPOSE (.+)$", dockerfile, re.MULTILINE)
                ports = {port["containerPort"] for port in container.get("ports", [])}
                # The load test listens only when it is told to.
                if exposed:
                    assert ports == {int(port) for port in exposed[1].split()}
                user = template["spec"]["securityContext"]
                assert f"\nUSER {user['runAsUser']}:{user['runAsGroup']}\n" in dockerfile
    assert seen == dockerfiles.keys()


def test_every_image_is_pinned(every_stack: Stacks) -> None:
    for objects in every_stack:
        for _, template in pods(objects):
            for container in template["spec"]["containers"]:
                tag = container["image"].rpartition(":")[2]
                assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), container["image"]


def test_what_prometheus_looks_for_is_what_the_pods_say(
    every_stack: Stacks, monitoring_files: dict[str, str]
) -> None:
    """Its configuration keeps pods by this label and scrapes the port of this annotation."""
    assert "prometheus_io_port" in monitoring_files["prometheus/kubernetes.yaml"]
    for objects in every_stack:
        scraped = {
            template["metadata"]["labels"]["app.kubernetes.io/name"]: int(
                template["metadata"]["annotations"]["prometheus.io/port"]
            )
            for _, template in pods(objects)
            if "prometheus.io/port" in template["metadata"].get("annotations", {})
        }
        assert scraped.pop("loadtest", 9646) == 9646
        assert scraped == {"serving-rest": 8500, "serving-grpc": 8601, "envoy": 9902}


def test_a_pod_that_stops_has_left_before_and_has_time_to_finish(every_stack: Stacks) -> None:
    for objects in every_stack:
        deployments = of_kind(objects, "Deployment")
        for name in ("envoy", f"{DEFAULT}-rest", f"{DEFAULT}-grpc"):
            made = deployments[name]
            spec = made["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            before = container["lifecycle"]["preStop"]
            waits = before.get("sleep", {}).get("seconds") or int(
                before["exec"]["command"][-1].rpartition("sleep ")[2]
            )
            # The name server's 5 s and Envoy's 5 s, and the news of both.
            assert waits > 10
            assert spec["terminationGracePeriodSeconds"] >= waits + 10
            rolling = made["spec"]["strategy"]["rollingUpdate"]
            assert rolling == {"maxSurge": 1, "maxUnavailable": 0}


def test_sqlite_is_one_pod_that_ends_before_the_next_and_a_database_is_two() -> None:
    alone = of_kind(render(), "Deployment")["control-plane"]["spec"]
    assert (alone["replicas"], alone["strategy"]) == (1, {"type": "Recreate"})
    assert "control-plane" in of_kind(render(), "PersistentVolumeClaim")
    shared = render(SELDON_DATABASE_URL="postgresql://db/seldon")
    spec = of_kind(shared, "Deployment")["control-plane"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (2, "RollingUpdate")
    assert "control-plane" not in of_kind(shared, "PersistentVolumeClaim")
    assert "control-plane" in of_kind(shared, "PodDisruptionBudget")


def test_a_volume_that_one_node_has_brings_its_pods_there() -> None:
    def placement(**environ: str) -> dict[str, str]:
        found = {}
        for name, template in pods(render(MODEL_SOURCE="https://host/model.tar", **environ)):
            spec = template["spec"]
            mounts_models = any(volume["name"] == "data" for volume in spec["volumes"])
            if mounts_models:
                found[name.partition("-")[0]] = (
                    "together" if "podAffinity" in spec.get("affinity", {}) else "anywhere"
                )
        return found

    assert placement() == {"tensorflow": "together", "model": "together"}
    anywhere = {"tensorflow": "anywhere", "model": "anywhere"}
    assert placement(K8S_STORAGE_ACCESS_MODE="ReadWriteMany") == anywhere
    assert placement(DATA_VOLUME='{"nfs": {"server": "h", "path": "/m"}}') == anywhere


def test_upstreams_are_headless_and_callers_are_not() -> None:
    services = of_kind(render(), "Service")
    assert {n for n, made in services.items() if made["spec"].get("clusterIP") == "None"} == {
        f"{DEFAULT}-rest",
        f"{DEFAULT}-grpc",
    }
    # An Envoy has to stay with one control plane, which paces what it is told.
    assert services["control-plane"]["spec"]["sessionAffinity"] == "ClientIP"


def test_only_envoy_reaches_servers_and_control_plane_and_everybody_the_gateway() -> None:
    policies = of_kind(render(), "NetworkPolicy")

    def callers(policy: str, port: str) -> list[str]:
        return [
            caller["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
            for rule in policies[policy]["spec"]["ingress"]
            if port in {one["port"] for one in rule["ports"]}
            for caller in rule.get("from", [{"podSelector": {"matchLabels": {
                "app.kubernetes.io/name": "everybody"}}}])
        ]  # fmt: skip

    assert callers("control-plane", "http") == ["envoy"]
    assert callers(f"{DEFAULT}-grpc", "grpc") == ["envoy"]
    assert callers(f"{DEFAULT}-grpc", "metrics") == ["prometheus"]
    assert callers(f"{DEFAULT}-rest", "http") == ["envoy", "prometheus"]  # its metrics' port too
    assert callers("envoy", "rest") == callers("envoy", "grpc") == ["everybody"]
    assert callers("envoy", "stats") == ["prometheus"]
    assert "ingress" not in policies["default-deny"]["spec"]


def test_the_order_is_one_in_which_each_finds_what_it_needs(every_stack: Stacks) -> None:
    for objects in every_stack:
        kinds = [made["kind"] for made in objects]
        assert kinds[0] == "Namespace"
        for first, later in (
            ("NetworkPolicy", "Deployment"),
            ("PersistentVolumeClaim", "Job"),
            ("Service", "Deployment"),
            ("Deployment", "PodDisruptionBudget"),
        ):
            if first in kinds and later in kinds:
                last = max(i for i, kind in enumerate(kinds) if kind == first)
                assert last < kinds.index(later)


def test_more_pods_by_predictions_in_flight_only_when_asked() -> None:
    def metrics(**environ: str) -> list[str]:
        scaled = of_kind(render(K8S_REST_MAX_REPLICAS="4", **environ), "HorizontalPodAutoscaler")
        assert scaled.keys() == {f"{DEFAULT}-rest"}
        return [metric["type"] for metric in scaled[f"{DEFAULT}-rest"]["spec"]["metrics"]]

    assert metrics() == ["Resource"]
    assert metrics(K8S_IN_FLIGHT="20") == ["Resource", "Pods"]
    assert not of_kind(render(), "HorizontalPodAutoscaler")


def test_another_model_is_another_job() -> None:
    one, other = (of_kind(render(MODEL_SOURCE=f"https://host/{n}"), "Job") for n in "ab")
    assert len(one) == len(other) == 1
    assert one.keys() != other.keys()
    assert not of_kind(render(), "Job")


def test_the_model_has_the_same_name_as_on_one_machine() -> None:
    assert DEFAULT == MICROSERVICE


def test_probes_ask_what_they_are_for() -> None:
    deployments = of_kind(render(), "Deployment")
    for name, ready, live in (
        (f"{DEFAULT}-rest", ("httpGet", "/health/ready"), ("httpGet", "/health/live")),
        (f"{DEFAULT}-grpc", ("grpc", 8600), ("httpGet", "/health/live")),
        ("control-plane", ("httpGet", "/health/ready"), ("httpGet", "/health/live")),
        # An Envoy without its control plane is not ready; to start it anew would not help.
        ("envoy", ("httpGet", "/health/ready"), ("tcpSocket", None)),
    ):
        container = deployments[name]["spec"]["template"]["spec"]["containers"][0]
        for probe, (kind, what) in (("readinessProbe", ready), ("livenessProbe", live)):
            asked = container[probe][kind]
            assert (asked["port"] if kind == "grpc" else asked.get("path")) == what

        def patience(probe: str, container: Object = container) -> int:
            asked = container[probe]
            return int(asked.get("periodSeconds", 10) * asked.get("failureThreshold", 3))

        # Out of the list soon, killed late, and never while it still starts.
        assert patience("readinessProbe") < patience("livenessProbe") < 100
        assert patience("startupProbe") >= 60


def test_processes_are_as_many_as_the_cores_that_were_asked_for() -> None:
    """Left alone they would count the node's."""
    for name, variable in (
        (f"{DEFAULT}-rest", "REST_WORKERS"),
        (f"{DEFAULT}-grpc", "GRPC_WORKERS"),
        ("envoy", "SELDON_ENVOY_THREADS"),
    ):
        template = of_kind(render(), "Deployment")[name]["spec"]["template"]
        environment = {one["name"]: one for one in template["spec"]["containers"][0]["env"]}
        assert environment[variable]["valueFrom"]["resourceFieldRef"] == {
            "resource": "requests.cpu",
            "divisor": "1",
        }


def test_a_server_waits_for_a_model_that_is_being_downloaded_and_for_no_other() -> None:
    def waits(objects: list[Object]) -> set[str]:
        return {name for name, template in pods(objects) if "initContainers" in template["spec"]}

    assert waits(render(MODEL_SOURCE="s3://models/1")) == {f"{DEFAULT}-rest", f"{DEFAULT}-grpc"}
    assert waits(render()) == set()
    settings = KubernetesSettings.from_env({"MODEL_SOURCE": "s3://models/1"})
    other = Microservice("other", Api.REST, settings.rest, "/seldon-data/other/1")
    assert waits(microservice(settings, other)) == set()


def test_a_waiting_server_starts_once_a_model_alone_is_downloaded(tmp_path: Path) -> None:
    templates = dict(pods(render(MODEL_SOURCE="s3://models/1")))
    (waiting,) = templates[f"{DEFAULT}-rest"]["spec"]["initContainers"]
    assert [one["name"] for one in waiting["env"]] == ["MODEL_FOLDER"]
    model = tmp_path / "model.onnx"
    model.write_bytes(b"any")
    archive = shutil.make_archive(str(tmp_path / "model"), "gztar", tmp_path, model.name)
    checksum = hashlib.sha256(Path(archive).read_bytes()).hexdigest()
    download = [
        *(sys.executable, "-m", "model_download", "--source", archive, "--sha256", checksum),
        *("--target", str(tmp_path / "to")),
    ]
    folder = tmp_path / "to" / "1"
    with subprocess.Popen(
        waiting["command"], env={**os.environ, "MODEL_FOLDER": str(folder)}
    ) as it:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                it.wait(0.2)
            subprocess.run(download, check=True, capture_output=True, timeout=60)
            assert it.wait(10) == 0
        finally:
            it.kill()
    assert read_model_folder(folder).info.engine == "onnx"


def test_microservices_of_one_program_share_no_pods() -> None:
    settings = KubernetesSettings.from_env({})
    one, other = (
        microservice(settings, Microservice(name, Api.RPC, settings.grpc, f"/seldon-data/{name}"))
        for name in ("first", "second")
    )
    (template,) = (template for _, template in pods(one))
    assert [made["metadata"]["name"] for made in one] == ["first-grpc"] * len(one)
    for kind in ("Service", "NetworkPolicy", "Deployment"):
        (mine,), (theirs,) = of_kind(one, kind).values(), of_kind(other, kind).values()
        assert mine["metadata"]["labels"]["app.kubernetes.io/component"] == "first"
        for made, expected in ((mine, True), (theirs, False)):
            wanted = made["spec"].get("podSelector", made["spec"].get("selector"))
            assert selects(wanted.get("matchLabels", wanted), template) is expected


def test_a_microservice_of_an_image_has_no_volume() -> None:
    settings = KubernetesSettings.from_env({})
    image = "registry.example/team/my-model:2.0.0"
    made = microservice(settings, Microservice("mine", Api.REST, settings.rest, image=image))
    ((_, template),) = pods(made)
    (container,) = template["spec"]["containers"]
    assert container["image"] == image
    assert [volume["name"] for volume in template["spec"]["volumes"]] == ["tmp"]
    assert {one["name"] for one in container["env"]}.isdisjoint({"MODEL_FOLDER"})
    for one in made:
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)


def test_no_list_is_empty(every_stack: Stacks) -> None:
    """The API server drops one, and so sees a change each time that it is applied."""

    def lists(value: Any) -> Iterator[list[Any]]:
        if isinstance(value, list):
            yield value
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, dict | list):
                yield from lists(item)

    for made in distinct(every_stack):
        assert all(lists(made)), made["metadata"]["name"]
