import json

import pytest

from deploy.errors import SettingInvalid
from deploy.kubernetes.settings import KubernetesSettings, Resources
from deploy.kubernetes.stack import stack
from seldon_gateway.errors import SettingInvalid as GatewaySettingInvalid


def read(**environ: str) -> KubernetesSettings:
    return KubernetesSettings.from_env(environ)


def test_nothing_needs_to_be_said_and_an_empty_variable_says_nothing() -> None:
    settings = read()
    assert settings.namespace == settings.instance == "prediction-services"
    assert settings.image("envoy").startswith("localhost/prediction-services/envoy:")
    assert settings.model_folder == "/seldon-data/seldon-models/deep_mnist/1"
    assert read(K8S_NAMESPACE="", K8S_TAG="", DATA_VOLUME="", SELDON_DATABASE_URL="") == settings


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"K8S_NAMESPACE": "Upper"}, "K8S_NAMESPACE is 'Upper', expected at most 63 lower-case"),
        ({"K8S_TAG": "latest"}, "K8S_TAG is 'latest', expected .* and not latest"),
        ({"K8S_REGISTRY": "https://host"}, "K8S_REGISTRY is 'https://host', expected a host"),
        ({"K8S_CREATE_NAMESPACE": "yes"}, "K8S_CREATE_NAMESPACE is 'yes', expected true or false"),
        (
            {"K8S_OVERLAYS": "monitoring, loud"},
            "K8S_OVERLAYS is 'monitoring, loud', expected monitoring and",
        ),
        ({"K8S_REST_REPLICAS": "0"}, "K8S_REST_REPLICAS is '0', expected an integer from 1"),
        ({"K8S_GRPC_REPLICAS": " 2"}, "K8S_GRPC_REPLICAS is ' 2', expected an integer"),
        ({"K8S_GRPC_REPLICAS": "two"}, "K8S_GRPC_REPLICAS is 'two', expected an integer"),
        (
            {"K8S_REST_REPLICAS": "3", "K8S_REST_MAX_REPLICAS": "2"},
            "K8S_REST_MAX_REPLICAS is '2', expected an integer from 3 to 64",
        ),
        ({"K8S_REST_RESOURCES": "2 cpu"}, "K8S_REST_RESOURCES is '2 cpu', expected JSON such as"),
        (
            {"K8S_REST_RESOURCES": '{"requests": {"cpu": "two"}}'},
            "K8S_REST_RESOURCES is .*, expected JSON such as .* with quantities",
        ),
        (
            {"K8S_ENVOY_RESOURCES": '{"request": {"cpu": "2"}}'},
            "K8S_ENVOY_RESOURCES is .*, expected JSON such as .*requests",
        ),
        (
            {"K8S_ENVOY_RESOURCES": '{"limits": {"memory": "159Mi"}}'},
            "K8S_ENVOY_RESOURCES has a memory limit of 159Mi, expected at least 160Mi",
        ),
        (
            {"K8S_CONTROL_PLANE_REPLICAS": "2"},
            "K8S_CONTROL_PLANE_REPLICAS is 2, expected 1 without SELDON_DATABASE_URL",
        ),
        ({"K8S_IN_FLIGHT": "20"}, "K8S_IN_FLIGHT is 20, expected K8S_REST_MAX_REPLICAS or"),
        ({"K8S_STORAGE_SIZE": "ten"}, "K8S_STORAGE_SIZE is 'ten', expected a quantity such as"),
        ({"K8S_STORAGE_SIZE": "0Gi"}, "K8S_STORAGE_SIZE is '0Gi', expected a quantity such as"),
        ({"K8S_STORAGE_CLASS": "a/b"}, "K8S_STORAGE_CLASS is 'a/b', expected a storage class"),
        (
            {"K8S_STORAGE_ACCESS_MODE": "RWX"},
            "K8S_STORAGE_ACCESS_MODE is 'RWX', expected ReadWriteOnce or ReadWriteMany",
        ),
        (
            {"SELDON_SERVER_SERVICE_TYPE": "nodeport"},
            "SELDON_SERVER_SERVICE_TYPE is 'nodeport', expected ClusterIP or NodePort or",
        ),
        ({"SELDON_SERVER_NODEPORT": "80"}, "SELDON_SERVER_NODEPORT is '80', expected an integer"),
        ({"DATA_VOLUME": "/seldon-data"}, "DATA_VOLUME is '/seldon-data', expected JSON such as"),
        (
            {"DATA_VOLUME": '{"hostPath": {"path": "seldon-data"}}'},
            "DATA_VOLUME is .*, expected .*hostPath.* or .*claimName",
        ),
        (
            {"DATA_VOLUME": '{"hostPath": {"path": "/data/../etc"}}'},
            "DATA_VOLUME is .*, expected",
        ),
        ({"DATA_VOLUME": '{"nfs": {"path": "/models"}}'}, "DATA_VOLUME is .*, expected"),
        (
            {"DATA_VOLUME": '"glusterfs": {"endpoints": "glusterfs-cluster", "path": "gv0"}'},
            "DATA_VOLUME is glusterfs, which Kubernetes removed in 1.26",
        ),
        ({"MODEL_TARGET": "/models"}, "MODEL_TARGET is '/models', expected a folder below"),
        ({"MODEL_VERSION": "v1"}, "MODEL_VERSION is 'v1', expected an integer from 1"),
        ({"MODEL_SHA256": "abc"}, "MODEL_SHA256 is 'abc', expected 64 hexadecimal digits"),
        ({"LOADTEST_TEST_TYPE": "rest"}, "LOADTEST_TEST_TYPE is 'rest', expected js-predict or"),
        ({"LOADTEST_WORKERS": "0"}, "LOADTEST_WORKERS is '0', expected an integer from 1"),
    ],
)
def test_a_wrong_variable_is_named_with_what_was_expected(
    environ: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SettingInvalid, match=sentence):
        read(**environ)


def test_what_the_control_plane_is_told_is_checked_as_it_would() -> None:
    assert read(SELDON_TIMEOUT="2").gateway_environment == {"SELDON_TIMEOUT": "2"}
    with pytest.raises(GatewaySettingInvalid, match="SELDON_TIMEOUT is 'soon'"):
        read(SELDON_TIMEOUT="soon")


@pytest.mark.parametrize(
    ("workload", "given"),
    [
        ("envoy", {"SELDON_POLL": "4", "SELDON_JWKS_CACHE": "60"}),
        ("control-plane", {"SELDON_TIMEOUT": "2", "SELDON_TOKEN_TTL": "60"}),
    ],
)
def test_envoy_and_control_plane_are_told_what_each_of_them_reads(
    workload: str, given: dict[str, str]
) -> None:
    (made,) = (
        made
        for made in stack(read(**given), {})
        if (made["kind"], made["metadata"]["name"]) == ("Deployment", workload)
    )
    told = made["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [one for one in told if one["name"] in given] == [
        {"name": name, "value": value} for name, value in given.items()
    ]


def test_the_servers_are_told_their_own_variables_and_have_their_grace() -> None:
    settings = read(MODEL_ENGINE="tensorflow", REST_GRACE_S="60", GRPC_WORKERS="3", REST_PORT="1")
    pods = {
        made["metadata"]["name"]: made["spec"]["template"]["spec"]
        for made in stack(settings, {})
        if made["kind"] == "Deployment"
    }
    grace = {name: spec["terminationGracePeriodSeconds"] for name, spec in pods.items()}
    rest, grpc = (
        {one["name"]: one["value"] for one in spec["containers"][0]["env"] if "value" in one}
        for spec in (pods["tensorflow-deep-mnist-rest"], pods["tensorflow-deep-mnist-grpc"])
    )
    assert rest["MODEL_ENGINE"] == grpc["MODEL_ENGINE"] == "tensorflow"
    assert rest["REST_GRACE_S"] == "60"
    assert (grpc["GRPC_GRACE_S"], grpc["GRPC_WORKERS"]) == ("10", "3")
    assert grace["tensorflow-deep-mnist-rest"] == 15 + 60 + 10
    assert grace["tensorflow-deep-mnist-grpc"] == 15 + 10 + 10
    assert not {"REST_PORT", "GRPC_WORKERS"} & rest.keys()


def test_an_interval_that_envoy_would_not_take_is_refused() -> None:
    assert read().poll_s == 0.25
    with pytest.raises(GatewaySettingInvalid, match="SELDON_POLL is '0', expected seconds from"):
        read(SELDON_POLL="0")


def test_a_database_that_pods_cannot_share_is_refused_without_its_password() -> None:
    with pytest.raises(SettingInvalid, match="begins with 'sqlite', expected postgres") as refused:
        read(SELDON_DATABASE_URL="sqlite:////data/hidden.db")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ['{"hostPath": {"path": "/glusterfs"}}', '"hostPath": {"path": "/glusterfs"}']
)
def test_the_originals_volume_is_taken_with_braces_and_without(text: str) -> None:
    volume = read(DATA_VOLUME=text).volume
    assert volume.source == {"hostPath": {"path": "/glusterfs"}}
    assert volume.access_mode == "ReadWriteOnce"


def test_a_claim_that_exists_is_mounted_and_not_made() -> None:
    settings = read(DATA_VOLUME='{"persistentVolumeClaim": {"claimName": "models"}}')
    claims = [made for made in stack(settings, {}) if made["kind"] == "PersistentVolumeClaim"]
    assert [claim["metadata"]["name"] for claim in claims] == ["control-plane"]
    assert '"claimName": "models"' in json.dumps(stack(settings, {}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"requests": {"cpu": "2"}}', Resources("2", "512Mi", "1Gi")),
        ('{"requests": {"memory": "3Gi"}}', Resources("1", "3Gi", "3Gi")),
        ('{"limits": {"cpu": "500m", "memory": "3Gi"}}', Resources("500m", "3Gi", "3Gi", "500m")),
        ('{"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"memory": "2Gi"}}',
         Resources("2", "1Gi", "2Gi")),
    ],
)  # fmt: skip
def test_resources_are_those_given_else_the_defaults(text: str, expected: Resources) -> None:
    assert read(K8S_REST_RESOURCES=text).rest.resources == expected


@pytest.mark.parametrize(
    ("limit", "heap"), [("", "1024"), ("160Mi", "128"), ("4Gi", "3276"), ("2G", "1525")]
)
def test_envoys_heap_follows_the_limit_of_its_memory(limit: str, heap: str) -> None:
    given = {"K8S_ENVOY_RESOURCES": f'{{"limits": {{"memory": "{limit}"}}}}'} if limit else {}
    (envoy,) = (
        made
        for made in stack(read(**given), {})
        if (made["kind"], made["metadata"]["name"]) == ("Deployment", "envoy")
    )
    (container,) = envoy["spec"]["template"]["spec"]["containers"]
    assert {"name": "SELDON_ENVOY_HEAP", "value": heap} in container["env"]


def test_node_ports_are_the_originals_unless_the_cluster_is_to_choose() -> None:
    def node_ports(**environ: str) -> list[int | None]:
        objects = stack(read(**environ), {})
        (service,) = (
            made
            for made in objects
            if (made["kind"], made["metadata"]["name"]) == ("Service", "seldon-server")
        )
        return [port.get("nodePort") for port in service["spec"]["ports"]]

    assert node_ports() == [None, None]
    assert node_ports(SELDON_SERVER_SERVICE_TYPE="NodePort") == [30015, 30017]
    chosen = {"SELDON_SERVER_NODEPORT": "0", "SELDON_SERVER_RPC_NODEPORT": "31000"}
    assert node_ports(SELDON_SERVER_SERVICE_TYPE="NodePort", **chosen) == [None, 31000]


def test_a_load_test_is_told_what_it_knows() -> None:
    given = {"LOADTEST_USERS": "200", "LOADTEST_OUTPUT": "/elsewhere", "LOADTEST_WORKERS": "3"}
    wanted = read(**given).load_test
    assert dict(wanted.environment) == {"LOADTEST_USERS": "200"}
    assert wanted.workers == 3
