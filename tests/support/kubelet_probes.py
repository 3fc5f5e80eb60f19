"""Makes pods' probes as a kubelet does: for each a host, which of the three, and the probe itself.

Run in a container, on the pods' network: `python kubelet_probes.py '[{"host": …}, …]'`.
"""

import http.client
import json
import socket
import sys
import threading
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_READY_S = 60.0


def main() -> None:
    """Startup, readiness, liveness; ends with the first that does not come to pass."""
    for one in json.loads(sys.argv[1]):
        probe = one["probe"]
        period = float(probe.get("periodSeconds", 10))
        patience = {
            "startupProbe": period * probe.get("failureThreshold", 3),
            "readinessProbe": _READY_S,  # a kubelet's has no end
            "livenessProbe": 0.0,
        }[one["kind"]]
        until = time.monotonic() + patience
        while failure := _failure(one["host"], probe):
            if time.monotonic() > until:
                sys.exit(f"{one['host']}: {one['kind']} {probe}: {failure}")
            threading.Event().wait(min(period, 0.5))


def _failure(host: str, probe: dict[str, Any]) -> str:
    """Why the probe fails; empty when it does not."""
    timeout = float(probe.get("timeoutSeconds", 1))
    try:
        if "httpGet" in probe:
            ask = probe["httpGet"]
            connection = http.client.HTTPConnection(host, ask["port"], timeout=timeout)
            connection.request("GET", ask["path"])
            status = connection.getresponse().status
            return "" if 200 <= status < 400 else f"HTTP {status}"
        if "tcpSocket" in probe:
            socket.create_connection((host, probe["tcpSocket"]["port"]), timeout).close()
            return ""
        with grpc.insecure_channel(f"{host}:{probe['grpc']['port']}") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", "")),
                timeout=timeout,
            )
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return "" if serving else f"gRPC health {answer.status}"
    except (OSError, http.client.HTTPException, grpc.RpcError) as error:
        return repr(error)


main()
