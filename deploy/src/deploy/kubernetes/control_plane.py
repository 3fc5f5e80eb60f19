"""Access to the registry of a cluster's stack, by `seldon-cli` in its control plane's pod."""

import json
from collections.abc import Sequence
from typing import Any

from deploy import assignments
from deploy.assignments import Assignments
from deploy.errors import ControlPlaneRefused
from deploy.kubernetes import exec_stream, pods
from deploy.kubernetes.api import Api
from deploy.kubernetes.cluster import Place
from deploy.kubernetes.exec_stream import Sink
from deploy.kubernetes.objects.gateway import CONTROL_PLANE, OPERATOR

REMEDY = "start the stack with seldon-up or make deploy TARGET=kubernetes"


class ControlPlane:
    """The control plane of one stack."""

    def __init__(self, api: Api, place: Place) -> None:
        """Send no request yet."""
        self._api = api
        self._place = place
        self._pod: str | None = None

    def run(self, words: Sequence[str], stdin: bytes | None, out: Sink, err: Sink) -> int:
        """Run `seldon-cli words`; its exit status.

        Raises:
            ClusterError: It cannot be run.
        """
        if self._pod is None:
            self._pod = pods.ready_pod(self._api, self._place, CONTROL_PLANE, REMEDY)
        return exec_stream.run(
            self._api,
            self._place.namespace,
            self._pod,
            OPERATOR,
            ["seldon-cli", *words],
            stdin=stdin,
            out=out,
            err=err,
        )

    def output(self, *words: str, text: str | None = None) -> str:
        """The stdout of `seldon-cli words`, with `text` as its stdin.

        Raises:
            ControlPlaneRefused: With the error of seldon-cli.
            ClusterError: It cannot be run.
        """
        printed, complaint = bytearray(), bytearray()
        stdin = None if text is None else text.encode()
        if self.run(("--quiet", *words), stdin, printed.extend, complaint.extend):
            raise ControlPlaneRefused(_last_line(complaint or printed))
        return printed.decode(errors="replace")

    def setup_client(self, name: str, database: str) -> bool:
        """Create the client unless it exists; True if it was created."""
        words = ("--action", "setup", "--db-name", database, "--client-name", name)
        return "before" not in self.output("client", *words).split("\n", 1)[0]

    def keys(self, client: str) -> list[dict[str, Any]]:
        """A client's consumers, as `seldon-cli keys` prints them."""
        return list(json.loads(self.output("keys", "--client-name", client)))

    def assignments(self) -> Assignments:
        """Every client's variations."""
        return assignments.from_json(self.output("routing", "--action", "show"))

    def move(self, before: Assignments, after: Assignments) -> None:
        """Change variations, if they still are as `before`; all of them or none."""
        lines = f"{assignments.to_json(before)}\n{assignments.to_json(after)}\n"
        self.output("routing", "--action", "move", text=lines)

    def newest_versions(self) -> dict[str, str]:
        """The xDS versions of an up-to-date Envoy."""
        return dict(json.loads(self.output("routing", "--action", "versions")))

    def check(self, client: str, gateway: str, rest_port: int, grpc_port: int) -> list[str]:
        """Test predictions through the gateway; one line for each protocol that is served."""
        ports = ("--rest-port", str(rest_port), "--grpc-port", str(grpc_port))
        printed = self.output("check", "--client-name", client, "--gateway", gateway, *ports)
        return printed.splitlines()


def _last_line(text: bytearray) -> str:
    lines = text.decode(errors="replace").strip().splitlines() or [
        "seldon-cli failed without a message"
    ]
    return lines[-1].removeprefix("error: ")
