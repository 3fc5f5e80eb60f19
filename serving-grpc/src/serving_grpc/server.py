"""One process's gRPC server: Seldon, health and reflection on one port."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from model_runtime import MicroBatcher
from monitoring.metrics import ServingMetrics
from serving_grpc.call_loop import CallLoop
from serving_grpc.ports import PortUnavailable
from serving_grpc.servicer import SERVICE, SeldonServicer
from serving_grpc.settings import Settings

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_MOST_STREAMS = 100  # of one connection at a time
_CONNECTION_AGE_MS = 600_000
_KEEPALIVE_MS = 60_000
_LEAST_PING_INTERVAL_MS = 5_000
_IDLE_CHECK_S = 0.05
_LAST_EVENTS_S = 1.0
_HEALTH_NAMES = ("", SERVICE)  # the whole server, and the service


class PredictionServer:
    """Listens from `start`, says SERVING from `announce`, NOT_SERVING from `drain`."""

    def __init__(
        self,
        batcher: MicroBatcher,
        metrics: ServingMetrics,
        settings: Settings,
        runs_engine: bool = False,
    ) -> None:
        """Bind the settings' port; several processes may share it.

        Args:
            batcher: Answers the predictions; closed by the caller, and started by the caller
                unless this server runs its engine.
            metrics: Counts them.
            settings: Host, port, threads, limits.
            runs_engine: Whether the thread that takes the calls starts `batcher` and runs its
                engine too.

        Raises:
            PortUnavailable: Another server has the port, or the host is not this machine's.
        """
        self._health = health.HealthServicer()
        for name in _HEALTH_NAMES:
            self._health.set(name, _NOT_SERVING)
        # Of health and reflection; past the threads a call would wait in a line without a limit.
        self._others = _Calls(settings.threads)
        self._server = grpc.server(
            self._others,
            options=_channel_options(settings),
            maximum_concurrent_rpcs=settings.threads,
        )
        self._predictions = CallLoop(
            self._server,
            f"/{SERVICE}/Classify",
            SeldonServicer(batcher, metrics).classify,
            batcher if runs_engine else None,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        address = _address(settings.host, settings.port)
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise PortUnavailable(f"{address} cannot be bound for gRPC") from None

    @property
    def in_flight(self) -> int:
        """Calls of Classify that the core is not done with."""
        return self._predictions.unanswered

    def start(self) -> None:
        """Accept calls; health says NOT_SERVING."""
        self._predictions.start()

    def announce(self) -> None:
        """Say SERVING: the model has scored an instance."""
        for name in _HEALTH_NAMES:
            self._health.set(name, _SERVING)

    def drain(self, grace_s: float, notice_s: float = 0.0) -> None:
        """Say NOT_SERVING, then take no new call and finish those in flight.

        Args:
            grace_s: Seconds after which calls that are still in flight are cancelled.
            notice_s: Seconds between the two, in which calls are still taken: for balancers
                to hear of it. A call on its way when the port closes is lost (CANCELLED).
        """
        self._health.enter_graceful_shutdown()
        time.sleep(notice_s)
        stopped = self._server.stop(grace_s)
        idle_before = False
        # What is cancelled after the grace ends in the thread that runs the engine: if it goes on.
        until = time.monotonic() + grace_s + _LAST_EVENTS_S
        while not stopped.wait(_IDLE_CHECK_S) and time.monotonic() < until:
            idle = not self._others.unanswered and not self._predictions.unanswered
            if idle and idle_before:  # what is left are streams that end only with their caller
                self._server.stop(None)
            idle_before = idle


class _Calls(ThreadPoolExecutor):
    """The threads that answer calls, and a count of the calls that they have not answered yet."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="call")
        self._lock = threading.Lock()
        self.unanswered = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        with self._lock:
            self.unanswered += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._answered)
        return future

    def _answered(self, _: "Future[Any]") -> None:
        with self._lock:
            self.unanswered -= 1


def _channel_options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", _MOST_STREAMS),
        # Connections stay with the process that accepted them: without an end, one that was
        # started again would never get its share back.
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        # Find peers that vanished; let clients do the same without being called a nuisance.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
    ]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
