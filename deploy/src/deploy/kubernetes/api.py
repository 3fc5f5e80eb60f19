"""A cluster's API: the `kubernetes` client with timeouts, retries and our own errors."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from kubernetes.dynamic.resource import ResourceList
from kubernetes.stream.ws_client import WSClient, get_websocket_url
from urllib3.exceptions import HTTPError
from urllib3.util import Retry
from websocket import WebSocketBadStatusException, WebSocketException, setdefaulttimeout

from deploy.errors import ClusterNotConfigured, ClusterRefused, ClusterUnreachable
from deploy.kubernetes import refusals
from deploy.kubernetes.refusals import FIELD_MANAGER, Request

Object = dict[str, Any]
"""An object of the API in its JSON form."""

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
# Every request is idempotent, so safe to retry: there is no POST.
RETRIES = Retry(
    total=5,
    connect=2,
    read=3,
    status=5,
    other=0,  # such as certificate errors, which retries cannot fix
    allowed_methods=None,
    status_forcelist={429, 500, 502, 503, 504},
    backoff_factor=0.2,
    backoff_max=5,
    retry_after_max=30,
    raise_on_status=False,
)

# A path that cannot exist: the client's default is a predictable name in /tmp.
_NO_CACHE = f"{os.devnull}/none"


@dataclass(frozen=True)
class Reference:
    """A reference to an object."""

    api_version: str = field(compare=False)  # apps/v1 and apps/v1beta1 return the same object
    kind: str
    name: str
    namespace: str | None = None
    group: str = field(init=False)

    def __post_init__(self) -> None:
        """Derive the group."""
        group, slash, _ = self.api_version.partition("/")
        object.__setattr__(self, "group", group if slash else "")

    @classmethod
    def of(cls, item: Object) -> Self:
        """The reference to an object."""
        metadata = item["metadata"]
        return cls(item["apiVersion"], item["kind"], metadata["name"], metadata.get("namespace"))

    def __str__(self) -> str:
        """`Deployment envoy`."""
        return f"{self.kind} {self.name}"


class Api:
    """One cluster's API; every failure is a ClusterError."""

    def __init__(self, http: client.ApiClient, login: str) -> None:
        self.server = str(http.configuration.host)
        self.login = login
        self._http = http
        with self._request("get", "the API's kinds"):
            try:
                self._dynamic = DynamicClient(http, cache_file=_NO_CACHE)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ClusterUnreachable(
                    f"{self.server} does not answer like a Kubernetes API server; correct the "
                    f"server's address in {login}"
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def knows(self, api_version: str, kind: str) -> bool:
        """Whether the cluster has this kind."""
        return self._find(api_version, kind) is not None

    def is_namespaced(self, api_version: str, kind: str) -> bool:
        """Whether objects of this kind live in a namespace."""
        return bool(self._resource(api_version, kind).namespaced)

    def removable_kinds(self) -> list[tuple[str, str]]:
        """The namespaced kinds that can be listed and deleted: apiVersion, kind."""
        kinds: dict[tuple[str, str], tuple[str, str]] = {}
        with self._request("get", "the API's kinds"):
            found = [one for resources in self._dynamic.resources for one in resources]
        for one in found:
            if isinstance(one, ResourceList) or not one.namespaced:
                continue
            if not {"list", "delete"} <= set(one.verbs or ()):
                continue
            key = (one.group or "", one.kind)
            if one.preferred or key not in kinds:
                kinds[key] = (one.group_version, one.kind)
        return list(kinds.values())

    def read(self, which: Reference) -> Object | None:
        """The current object; None if it does not exist."""
        resource = self._resource(which.api_version, which.kind)
        with self._request("get", str(which), which.namespace):
            try:
                return _object(
                    self._dynamic.get(
                        resource, name=which.name, namespace=which.namespace, serializer=_plain
                    )
                )
            except client.ApiException as error:
                if error.status == 404:
                    return None
                raise

    def list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> list[Object]:
        """The objects of a kind in a namespace that match the selectors."""
        resource = self._resource(api_version, kind)
        with self._request("list", kind, namespace):
            answer = _object(
                self._dynamic.get(
                    resource,
                    namespace=namespace,
                    label_selector=labels,
                    field_selector=fields,
                    serializer=_plain,
                )
            )
        # A list's items lack apiVersion and kind.
        about = {"apiVersion": api_version, "kind": kind}
        return [{**about, **item} for item in answer.get("items") or []]

    def apply(self, item: Object, *, dry_run: bool = False, force: bool = False) -> Object:
        """Create or update the object by server-side apply; returns the result."""
        which = Reference.of(item)
        resource = self._resource(which.api_version, which.kind)
        with self._request("patch", str(which), which.namespace):
            return _object(
                self._dynamic.server_side_apply(
                    resource,
                    body=item,
                    name=which.name,
                    namespace=which.namespace,
                    field_manager=FIELD_MANAGER,
                    force_conflicts=True if force else None,
                    dry_run="All" if dry_run else None,
                    serializer=_plain,
                )
            )

    def delete(self, item: Object) -> None:
        """Delete the object after what it owns; never a successor of the same name."""
        which = Reference.of(item)
        resource = self._resource(which.api_version, which.kind)
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": item["metadata"]["uid"]},
        }
        with self._request("delete", str(which), which.namespace):
            try:
                self._dynamic.delete(
                    resource,
                    name=which.name,
                    namespace=which.namespace,
                    body=options,
                    serializer=_plain,
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise

    def change(self, which: Reference, fields: Object) -> Object:
        """Set fields of an existing object by merge patch, whoever owns them."""
        resource = self._resource(which.api_version, which.kind)
        with self._request("patch", str(which), which.namespace):
            return _object(
                self._dynamic.patch(
                    resource,
                    body=fields,
                    name=which.name,
                    namespace=which.namespace,
                    content_type="application/merge-patch+json",
                    serializer=_plain,
                )
            )

    def log(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        lines: int | None = None,
        previous: bool = False,
    ) -> str:
        """A container's log, or its last `lines`; `previous`: of its previous instance."""
        logs = self._resource("v1", "Pod").subresources["log"]
        query = [("container", container)]
        if lines is not None:
            query.append(("tailLines", str(lines)))
        if previous:
            query.append(("previous", "true"))
        with self._request("get", f"the log of Pod {pod}", namespace):
            answer = logs.get(name=pod, namespace=namespace, query_params=query, serialize=False)
        return str(answer.data.decode(errors="replace"))

    def last_log_line(self, namespace: str, pod: str, container: str, previous: bool) -> str:
        """The last line of a container's log; empty if there is none."""
        lines = self.log(namespace, pod, container, lines=20, previous=previous).split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def open_exec(
        self, namespace: str, pod: str, container: str, words: Sequence[str], *, stdin: bool
    ) -> WSClient:
        """Start a command in a container; returns its streams as a WebSocket client."""
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("stdin", str(stdin).lower()), *(("command", word) for word in words)]
        _, url, headers, _, _ = self._http.param_serialize(
            "GET",
            f"/api/v1/namespaces/{namespace}/pods/{pod}/exec",
            query_params=query,
            auth_settings=["BearerToken"],
        )
        headers = {name.lower(): value for name, value in headers.items()}
        setdefaulttimeout(READ_TIMEOUT_S)
        with self._request("exec in", f"container {container} of Pod {pod}", namespace):
            try:
                return WSClient(
                    self._http.configuration, get_websocket_url(url), headers, False, binary=True
                )
            except WebSocketBadStatusException as error:
                body = (error.resp_body or b"").decode(errors="replace")
                raise client.ApiException(status=error.status_code, body=body) from error
            except (WebSocketException, OSError) as error:
                raise HTTPError(str(error)) from error

    def _find(self, api_version: str, kind: str) -> Any:
        group, slash, version = api_version.rpartition("/")
        where = {"prefix": "apis", "group": group} if slash else {"prefix": "api"}
        with self._request("get", f"the kind {kind} of {api_version}"):
            try:
                return self._dynamic.resources.get(api_version=version, kind=kind, **where)
            except ResourceNotFoundError:
                return None

    def _resource(self, api_version: str, kind: str) -> Any:
        found = self._find(api_version, kind)
        if found is None:
            raise ClusterRefused(
                f"{self.server} does not serve {kind} of {api_version}; use a cluster that does, "
                "or try again when its API is complete"
            )
        return found

    @contextmanager
    def _request(self, verb: str, what: str, namespace: str | None = None) -> Iterator[None]:
        request = Request(self.server, self.login, verb, what, namespace)
        try:
            yield
        except client.ApiException as error:
            raise refusals.from_answer(request, int(error.status or 0), error.body) from error
        except HTTPError as error:
            raise refusals.from_transport(request, error) from error


class _ApiClient(client.ApiClient):
    """Sets timeouts, and reads each response completely, so that it can be retried."""

    def call_api(self, *args: Any, **options: Any) -> Any:
        attempts = 3
        while True:
            attempts -= 1
            options["_request_timeout"] = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
            answer = super().call_api(*args, **options)
            try:
                answer.read()
            except HTTPError:
                if not attempts:
                    raise
            else:
                return answer


def connect(environ: Mapping[str, str], context: str | None = None) -> Api:
    """Connect to the cluster of KUBECONFIG, ~/.kube/config or the service account.

    Args:
        environ: KUBECONFIG: a file, or several with colons between.
        context: One of them in it; default its current one.

    Raises:
        ClusterNotConfigured: There is no such file or context.
        ClusterUnreachable, ClusterRefused: The cluster does not respond, or rejects us.
    """
    settings = client.Configuration()
    settings.retries = RETRIES
    files = environ.get("KUBECONFIG", "")
    default = Path(environ.get("HOME", "~")).expanduser() / ".kube" / "config"
    if not files and default.is_file():
        files = str(default)
    if not files and context is None and environ.get("KUBERNETES_SERVICE_HOST"):
        try:
            config.load_incluster_config(client_configuration=settings)
        except ConfigException as error:
            raise ClusterNotConfigured(
                f"this pod's service account cannot be used ({error}); set KUBECONFIG"
            ) from error
        return Api(_ApiClient(settings), "this pod's service account")
    if not files:
        raise ClusterNotConfigured(
            f"no cluster is configured and {default} does not exist; set KUBECONFIG to its file"
        )
    login = _load(files, context, settings)
    return Api(_ApiClient(settings), login)


def _load(files: str, context: str | None, settings: client.Configuration) -> str:
    """Load the files into `settings`; returns a description of the login."""
    paths = [Path(path) for path in files.split(os.pathsep) if path]
    if not any(path.is_file() for path in paths):
        raise ClusterNotConfigured(f"KUBECONFIG is {files}, which does not exist; correct it")
    try:
        contexts, current = config.list_kube_config_contexts(config_file=files)
        names = [str(one["name"]) for one in contexts]
        if context is not None and context not in names:
            raise ClusterNotConfigured(
                f"{files} has no context {context}; choose one of {', '.join(names)}"
            )
        config.load_kube_config(
            config_file=files, context=context, client_configuration=settings, persist_config=False
        )
    except (ConfigException, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise ClusterNotConfigured(f"{files} cannot be used: {text}; correct it") from error
    return f"context {context or current['name']} of {files}"


def _plain(_: object, answer: Object) -> Object:
    return answer


def _object(answer: Any) -> Object:
    if not isinstance(answer, dict):
        raise HTTPError("the response is not a JSON object")
    return answer
