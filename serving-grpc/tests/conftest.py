"""What several test modules need: messages as clients write them, and a server in this process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

import seldon_pb2
from monitoring.metrics import ServingMetrics
from serving_core import DataPlane, MicroBatcher
from serving_core.testing import FakePredictor
from serving_grpc.server import PredictionServer
from serving_grpc.settings import Settings

CLASSIFY = "/io.seldon.api.rpc.Seldon/Classify"


def _request_bytes(values, puid: str = "") -> bytes:
    request = seldon_pb2.ClassificationRequest()
    request.meta.puid = puid
    request.data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=values))
    return request.SerializeToString()


@dataclass
class Running:
    """A server in this process, and a channel to it."""

    predictor: FakePredictor
    batcher: MicroBatcher
    server: PredictionServer
    registry: CollectorRegistry
    channel: grpc.Channel

    @property
    def _classify(self) -> grpc.UnaryUnaryMultiCallable:
        return self.channel.unary_unary(CLASSIFY, None, None)

    def classify(self, request: bytes, **options):
        """One call; returns its reply and its call object, raises grpc.RpcError."""
        reply, call = self._classify.with_call(request, timeout=10, **options)
        return seldon_pb2.ClassificationReply.FromString(reply), call

    def begin(self, request: bytes, timeout: float = 10.0) -> grpc.Future:
        """One call that is not waited for; its result is bytes."""
        return self._classify.future(request, timeout=timeout)

    def refusal(self, request: bytes, **options) -> grpc.RpcError:
        """The error that a call must end in."""
        with pytest.raises(grpc.RpcError) as caught:
            self.classify(request, **options)
        return caught.value

    def in_flight(self) -> float:
        """Calls that the metrics say are being answered."""
        found = self.registry.get_sample_value("seldon_requests_in_flight", {"protocol": "grpc"})
        assert found is not None
        return found

    def count(self, code: str, client: str = "direct", variation: str = "default") -> float:
        """Calls that the metrics say have ended with `code`."""
        labels = {"protocol": "grpc", "client": client, "variation": variation, "code": code}
        return self.registry.get_sample_value("seldon_requests_total", labels) or 0.0


@pytest.fixture
def request_bytes() -> Callable[..., bytes]:
    return _request_bytes


@pytest.fixture
def check() -> Callable[..., str]:
    """The status that a server's health service gives."""

    def check(channel: grpc.Channel, service: str = "") -> str:
        request = health_pb2.HealthCheckRequest(service=service)
        reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    return check


@pytest.fixture
def good(request_bytes) -> bytes:
    return request_bytes(np.full(784, 0.5), puid="good")


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start a server on any free port: predictor, ready or not, who runs it, environment."""
    with ExitStack() as stack:

        def start(
            predictor: FakePredictor | None = None,
            ready: bool = True,
            runs_engine: bool = False,
            **environ: str,
        ):
            predictor = predictor or FakePredictor()
            settings = Settings.from_env(
                {"MODEL_FOLDER": "unused", "GRPC_PORT": "0", "GRPC_GRACE_S": "5"} | environ
            )
            batcher = MicroBatcher(predictor, max_queue=settings.queue_limit)
            registry = CollectorRegistry()
            metrics = ServingMetrics(registry, "grpc", "fake", "1")
            server = PredictionServer(DataPlane(batcher, metrics), settings, runs_engine)
            server.start()
            if ready:
                if not runs_engine:
                    batcher.start()
                server.announce()
                stack.callback(batcher.close)
            stack.callback(server.drain, 0.0)
            stack.callback(predictor.gate.set)
            channel = stack.enter_context(
                grpc.insecure_channel(
                    f"127.0.0.1:{server.port}",
                    # Channels of one address share a connection otherwise, across tests too.
                    options=[("grpc.use_local_subchannel_pool", 1)],
                )
            )
            return Running(predictor, batcher, server, registry, channel)

        yield start
