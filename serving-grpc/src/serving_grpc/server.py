"""One process's gRPC server: predictions, health and reflection on one port."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving_core import DataPlane
from serving_grpc.call_loop import CallLoop
from serving_grpc.metadata import MetadataCalls
from serving_grpc.ports import PortUnavailable
from serving_grpc.servicer import CODECS, SERVICES, serve
from serving_grpc.settings import Settings

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_MAX_STREAMS = 100  # of one connection at a time
_CONNECTION_AGE_MS = 600_000
_KEEPALIVE_MS = 60_000
_MIN_PING_INTERVAL_MS = 5_000
_IDLE_CHECK_S = 0.05
_LAST_EVENTS_S = 1.0
_HEALTH_NAMES = ("", *SERVICES)  # the whole server, and its services


class PredictionServer:
    """The gRPC server of one worker; SERVING from `announce` to `drain`."""

    def __init__(
        self,
        plane: DataPlane,
        settings: Settings,
        runs_engine: bool = False,
    ) -> None:
        """Bind the port, which several processes may share.

        Args:
            plane: The process's batcher and metrics. The caller closes the batcher, and starts it
                unless `runs_engine`.
            settings: Host, port, threads, limits.
            runs_engine: Whether the call loop starts the batcher and runs its engine.

        Raises:
            PortUnavailable: The port is in use, or the host is not of this machine.
        """
        self._health = health.HealthServicer()
        for name in _HEALTH_NAMES:
            self._health.set(name, _NOT_SERVING)
        # For calls that compute nothing; without maximum_concurrent_rpcs their queue is unbounded.
        self._other_calls = _CountingExecutor(settings.threads)
        self._server = grpc.server(
            self._other_calls,
            options=_channel_options(settings),
            maximum_concurrent_rpcs=settings.threads,
        )
        self._predictions = CallLoop(
            self._server,
            {method: partial(serve, plane, codec) for method, codec in CODECS.items()},
            plane.batcher if runs_engine else None,
        )
        self._announced = False
        MetadataCalls(plane.batcher.info, lambda: self._announced and plane.batcher.ready).add_to(
            self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        address = _address(settings.host, settings.port)
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise PortUnavailable(f"{address} cannot be bound for gRPC") from None

    @property
    def in_flight(self) -> int:
        """Number of prediction RPCs in flight."""
        return self._predictions.in_flight

    def start(self) -> None:
        """Accept RPCs; the health status stays NOT_SERVING."""
        self._predictions.start()

    def announce(self) -> None:
        """Set the health status to SERVING, after the model has scored an instance."""
        self._announced = True
        for name in _HEALTH_NAMES:
            self._health.set(name, _SERVING)

    def drain(self, grace_s: float, delay_s: float = 0.0) -> None:
        """Set NOT_SERVING, then refuse new RPCs and complete those in flight.

        Args:
            grace_s: Seconds after the delay until RPCs still in flight are cancelled.
            delay_s: Seconds of further service first, for load balancers to notice. An RPC in
                transit when the port closes is lost (CANCELLED).
        """
        self._announced = False
        self._health.enter_graceful_shutdown()
        time.sleep(delay_s)
        stopped = self._server.stop(grace_s)
        idle_before = False
        # RPCs cancelled after the grace complete in the engine thread, which may hang.
        until = time.monotonic() + grace_s + _LAST_EVENTS_S
        while not stopped.wait(_IDLE_CHECK_S) and time.monotonic() < until:
            idle = not self._other_calls.in_flight and not self._predictions.in_flight
            if idle and idle_before:  # only streams remain, which clients end
                self._server.stop(None)
            idle_before = idle


class _CountingExecutor(ThreadPoolExecutor):
    """A thread pool that counts its calls in flight."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="call")
        self._lock = threading.Lock()
        self.in_flight = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        with self._lock:
            self.in_flight += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._count_down)
        return future

    def _count_down(self, _: "Future[Any]") -> None:
        with self._lock:
            self.in_flight -= 1


def _channel_options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", _MAX_STREAMS),
        # A connection stays with the process that accepted it: without a maximum age, a restarted
        # worker would never regain its share.
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        # Detect vanished peers, and allow clients' keepalive pings.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
    ]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
