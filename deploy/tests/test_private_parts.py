"""What this package uses of its dependencies beyond their documented API.

A new version may take any of it away without notice. Each test then names the part and its user.
"""

import inspect
import xmlrpc.client
from types import SimpleNamespace

import pytest
import websocket
import yaml
from kubernetes import client
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic import client as dynamic_client
from kubernetes.dynamic.resource import ResourceList
from kubernetes.stream import ws_client
from kubernetes.utils.quantity import parse_quantity
from supervisor import http as supervisor_http
from supervisor.options import ServerOptions
from supervisor.supervisord import Supervisor
from supervisor.xmlrpc import Faults

from deploy import supervisor_client
from deploy.nimble_supervisor import make_nimble


def test_supervisord_waits_in_its_options_poller(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "self.options.poller.poll(timeout)" in inspect.getsource(Supervisor.runforever), (
        "supervisord's main loop does not wait in options.poller.poll any more, "
        "which deploy.nimble_supervisor shortens"
    )
    options = ServerOptions()
    waits: list[float] = []
    monkeypatch.setattr(options.poller, "poll", waits.append)
    make_nimble(SimpleNamespace(options=options))
    options.poller.poll(1.0)
    options.poller.poll(0.01)
    assert waits == [0.1, 0.01]


def test_supervisord_passes_itself_to_the_factory_of_an_rpc_interface() -> None:
    assert "inst = factory(supervisord, **d)" in inspect.getsource(supervisor_http), (
        "supervisord calls the factories of [rpcinterface:…] sections in another way: "
        "deploy.nimble_supervisor is one"
    )


def test_supervisord_binds_its_socket_under_a_longer_name() -> None:
    source = inspect.getsource(supervisor_http.supervisor_af_unix_http_server)
    assert '"%s.%d" % (socketname, os.getpid())' in source, (
        "supervisord's temporary socket is named in another way: "
        "deploy.supervisor_conf.LONGEST_SOCKET_PATH leaves room for it"
    )


@pytest.mark.parametrize(
    ("fault", "ours"),
    [
        ("ALREADY_ADDED", supervisor_client._ALREADY_ADDED),
        ("BAD_NAME", supervisor_client._BAD_NAME),
        ("NOT_RUNNING", supervisor_client._NOT_RUNNING),
    ],
)
def test_faults_of_supervisord_have_their_numbers(fault: str, ours: int) -> None:
    assert getattr(Faults, fault, None) == ours, (
        f"supervisor.xmlrpc.Faults.{fault} has another number: change deploy.supervisor_client"
    )


def test_xmlrpc_transport_keeps_its_connection_to_close_it() -> None:
    assert xmlrpc.client.Transport()._connection == (None, None), (
        "xmlrpc.client.Transport has no _connection (host, connection) any more, "
        "which deploy.supervisor_client sets"
    )


def test_kubernetes_client_takes_a_timeout_with_each_call() -> None:
    assert "_request_timeout" in inspect.signature(client.ApiClient.call_api).parameters, (
        "kubernetes.client.ApiClient.call_api has no _request_timeout any more, "
        "which deploy.kubernetes.api sets for every request"
    )


def test_kubernetes_client_serializes_the_request_of_an_exec() -> None:
    made = client.ApiClient(client.Configuration(host="http://host")).param_serialize(
        "GET",
        "/exec",
        query_params=[("command", "a b"), ("command", "c")],
        auth_settings=["BearerToken"],
    )
    assert (len(made), made[0], made[1]) == (
        5,
        "GET",
        "http://host/exec?command=a%20b&command=c",
    ), (
        "kubernetes.client.ApiClient.param_serialize returns something else, "
        "which deploy.kubernetes.api.Api.open_exec unpacks"
    )


def test_kubernetes_websocket_takes_url_and_headers() -> None:
    parameters = list(inspect.signature(ws_client.WSClient).parameters)
    assert parameters == ["configuration", "url", "headers", "capture_all", "binary"], (
        "kubernetes.stream.ws_client.WSClient takes other arguments: "
        "deploy.kubernetes.api.Api.open_exec makes one"
    )
    assert ws_client.get_websocket_url("https://host/exec") == "wss://host/exec", (
        "kubernetes.stream.ws_client.get_websocket_url returns something else"
    )


def test_websocket_client_has_a_default_timeout_and_shows_a_refusal() -> None:
    websocket.setdefaulttimeout(websocket.getdefaulttimeout())
    refused = websocket.WebSocketBadStatusException("%d", 403, None, {}, b"body")
    assert (refused.status_code, refused.resp_body) == (403, b"body"), (
        "websocket.WebSocketBadStatusException has no status_code and resp_body any more, "
        "which deploy.kubernetes.api words"
    )
    assert callable(getattr(websocket.WebSocket, "shutdown", None)), (
        "websocket.WebSocket has no shutdown any more, which deploy.kubernetes.exec_stream calls"
    )


def test_kubernetes_dynamic_client_takes_a_cache_file_and_a_serializer() -> None:
    assert "cache_file" in inspect.signature(DynamicClient).parameters, (
        "kubernetes.dynamic.DynamicClient has no cache_file any more, "
        "by which deploy.kubernetes.api keeps it from writing to /tmp"
    )
    assert "kwargs.pop('serializer'" in inspect.getsource(dynamic_client.meta_request), (
        "kubernetes.dynamic.client takes no serializer any more, "
        "by which deploy.kubernetes.api gets plain dicts"
    )
    assert callable(getattr(DynamicClient, "server_side_apply", None))
    assert isinstance(ResourceList, type)


def test_kubernetes_parses_quantities() -> None:
    assert int(parse_quantity("160Mi")) == 160 << 20


def test_yaml_dumper_indents_by_a_method_of_its_own() -> None:
    parameters = list(inspect.signature(yaml.SafeDumper.increase_indent).parameters)
    assert parameters == ["self", "flow", "indentless"], (
        "yaml.SafeDumper.increase_indent takes other arguments: "
        "deploy.kubernetes.manifests overrides it"
    )
    assert callable(getattr(yaml.SafeDumper, "ignore_aliases", None))
