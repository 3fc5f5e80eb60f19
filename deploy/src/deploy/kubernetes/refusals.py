"""Words the errors of a cluster's API, one sentence each."""

import json
import re
from dataclasses import dataclass
from typing import Any

from urllib3 import exceptions as http

from deploy.errors import (
    ClusterError,
    ClusterForbidden,
    ClusterRefused,
    ClusterUnreachable,
    FieldConflict,
)

FIELD_MANAGER = "prediction-services"

_QUOTA = re.compile(r"exceeded quota: (.*)", re.DOTALL)
_NOT_ALLOWED = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]*)"'
    r'(?: in API group "(?P<group>[^"]*)")?'
)
_WEBHOOK_DENIES = re.compile(
    r'admission webhook "(?P<name>[^"]+)" denied the request(?:: (?P<why>.*)| without .*)',
    re.DOTALL,
)
_WEBHOOK_FAILS = re.compile(r'failed calling webhook "(?P<name>[^"]+)": (?P<why>.*)', re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"(\.\S+): field not declared in schema")
_MANAGER = re.compile(r'conflict with "([^"]+)"')


@dataclass(frozen=True)
class Request:
    """A request to an API server.

    Attributes:
        server: Its URL.
        login: Where server and login are from: a context's name and its file.
        verb: In the API's words: get, list, patch, delete.
        what: `Deployment envoy`, or a kind alone.
        namespace: None for what has none.
    """

    server: str
    login: str
    verb: str
    what: str
    namespace: str | None

    @property
    def where(self) -> str:
        """`Deployment envoy in namespace production`."""
        return f"{self.what} in namespace {self.namespace}" if self.namespace else self.what


def from_answer(request: Request, code: int, body: str | bytes | None) -> ClusterError:
    """The error of an HTTP response; `body` is the API's Status, or a proxy's text."""
    status = _status(body)
    message = " ".join(str(status.get("message", "")).split())
    causes = status.get("details", {}).get("causes", []) or []
    reasons = {cause.get("reason") for cause in causes}
    where = request.where
    if code == 401:
        return ClusterRefused(
            f"{request.server} does not accept the login of {request.login} (401 Unauthorized): "
            "its token or certificate is invalid or expired; log in again"
        )
    if found := _WEBHOOK_DENIES.search(message):
        return ClusterRefused(
            f"the cluster's webhook {found['name']} denied {where}: "
            f"{_clause(found['why'] or 'no reason given')}; change the object, or ask who runs it"
        )
    if found := _WEBHOOK_FAILS.search(message):
        return ClusterRefused(
            f"the cluster's webhook {found['name']}, which checks {where}, failed: "
            f"{_clause(found['why'])}; ask who runs it"
        )
    if code == 403:
        return _forbidden(request, message, reasons)
    if code == 404 and status.get("details", {}).get("kind") == "namespaces":
        return ClusterRefused(
            f"namespace {request.namespace} of {request.what} does not exist; create it first"
        )
    if "FieldManagerConflict" in reasons:
        return _conflict(request, causes)
    if code == 409:
        return ClusterRefused(
            f"{where} was changed by another client meanwhile ({_clause(message)}); try again"
        )
    if fields := _UNKNOWN_FIELD.findall(message):
        return ClusterRefused(
            f"{where} is invalid: this cluster has no field {', '.join(fields)}; "
            "correct the name, or use a newer cluster"
        )
    if code in (400, 413, 422):
        why = "; ".join(_invalid(cause) for cause in causes) or _clause(message)
        return ClusterRefused(f"{where} is rejected as invalid: {why}; correct it")
    if code == 429:
        return ClusterUnreachable(
            f"{request.server} is too busy to {request.verb} {where}; try again in a minute"
        )
    return ClusterUnreachable(
        f"{request.server} failed to {request.verb} {where} ({code}: {_clause(message)}); "
        "try again in a minute"
    )


def from_transport(request: Request, error: Exception) -> ClusterError:
    """The error of a request without a complete response."""
    reason = error.reason if isinstance(error, http.MaxRetryError) else error
    server = request.server
    if isinstance(reason, http.SSLError):
        text = str(reason)
        if "WRONG_VERSION_NUMBER" in text or "record layer" in text:
            return ClusterUnreachable(
                f"{server} does not use TLS; correct the server's address in {request.login}"
            )
        found = re.search(r"certificate verify failed: ([^(\"']+)", text)
        return ClusterUnreachable(
            f"the certificate of {server} is not trusted "
            f"({(found[1] if found else text).strip().rstrip('.')}); correct the "
            f"certificate-authority of {request.login}"
        )
    if isinstance(reason, http.NameResolutionError):
        return ClusterUnreachable(
            f"the host of {server} is unknown; correct the server's address in {request.login}, "
            "or connect to its network (VPN)"
        )
    if isinstance(reason, http.ReadTimeoutError):
        return ClusterUnreachable(
            f"{server} accepted the connection but did not answer in time "
            f"({request.verb} {request.where}); try again in a minute"
        )
    if isinstance(reason, http.ConnectTimeoutError | http.NewConnectionError):
        return ClusterUnreachable(
            f"cannot connect to {server}; start the cluster, connect to its network (VPN), or "
            f"correct {request.login}"
        )
    return ClusterUnreachable(
        f"{server} closed the connection ({request.verb} {request.where}: "
        f"{_clause(str(reason))}); try again in a minute"
    )


def _forbidden(request: Request, message: str, reasons: set[Any]) -> ClusterError:
    where = request.where
    if found := _QUOTA.search(message):
        return ClusterRefused(
            f"a quota leaves no room for {where} ({_clause(found[1])}); free some of it, or "
            "have it raised"
        )
    if "NamespaceTerminating" in reasons:
        return ClusterRefused(
            f"namespace {request.namespace} of {request.what} is being deleted; try again when it "
            "is gone"
        )
    if "system:anonymous" in message:
        return ClusterRefused(
            f"{request.login} has no credentials for {request.server}; log in, so that it has a "
            "token or a certificate"
        )
    if found := _NOT_ALLOWED.search(message):
        group = f".{found['group']}" if found["group"] else ""
        scope = f"in namespace {request.namespace}" if request.namespace else "in the cluster"
        return ClusterForbidden(
            f"{found['user']} may not {found['verb']} {found['resource']}{group} {scope}, which "
            f"{request.what} needs; ask for a role that allows it"
        )
    return ClusterRefused(f"the cluster forbids {where}: {_clause(message)}; ask who runs it")


def _conflict(request: Request, causes: list[dict[str, Any]]) -> ClusterError:
    managers = sorted({name for cause in causes for name in _MANAGER.findall(cause["message"])})
    fields = ", ".join(sorted({str(cause.get("field")).lstrip(".") for cause in causes}))
    return FieldConflict(
        f"{request.where}: {fields} was set by {', '.join(managers)}, not by {FIELD_MANAGER}; "
        "undo that, or set FORCE=1 to take it over"
    )


def _invalid(cause: dict[str, Any]) -> str:
    """Field and reason, without the value, which the API repeats in full."""
    message = str(cause.get("message", ""))
    short = re.sub(r"^Invalid value: .{60,}: ", "", message, flags=re.DOTALL)
    return _clause(f"{cause.get('field')}: {short}")


def _status(body: str | bytes | None) -> dict[str, Any]:
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        status = json.loads(text)
    except ValueError:
        status = None
    return status if isinstance(status, dict) else {"message": text.strip()[:200] or "no reason"}


def _clause(message: str) -> str:
    """A message that goes on within a sentence of ours."""
    return " ".join(message.split()).rstrip(".; ")
