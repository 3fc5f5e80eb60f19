import threading
import time
from contextlib import suppress

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from polling import eventually
from serving_grpc.ports import PortUnavailable

SERVICE = "io.seldon.api.rpc.Seldon"


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_says_not_serving_until_the_model_is_announced(service, start, check):
    running = start(ready=False)
    assert check(running.channel, service) == "NOT_SERVING"
    running.server.announce()
    assert check(running.channel, service) == "SERVING"


def test_health_of_an_unknown_service_is_not_found(start, check):
    with pytest.raises(grpc.RpcError) as caught:
        check(start().channel, "io.seldon.api.rpc.Classifier")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_describes_the_service(start):
    database = ProtoReflectionDescriptorDatabase(start().channel)
    assert set(database.get_services()) >= {SERVICE, "grpc.health.v1.Health"}
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    assert service.methods_by_name["Classify"].input_type.name == "ClassificationRequest"


def test_a_drain_reaches_health_watchers_and_finishes_requests_in_flight(start, good):
    running = start()
    told = []

    def watch() -> None:
        stub = health_pb2_grpc.HealthStub(running.channel)
        with suppress(grpc.RpcError):
            for reply in stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=30):
                told.append(reply.status)

    running.predictor.gate.clear()
    in_flight = running.begin(good)
    watcher = threading.Thread(target=watch)
    watcher.start()
    eventually(lambda: told and running.in_flight() == 1)
    drain = threading.Thread(target=running.server.drain, args=(30.0,))
    drain.start()
    eventually(lambda: len(told) == 2)
    status = health_pb2.HealthCheckResponse
    assert told == [status.SERVING, status.NOT_SERVING]
    assert not in_flight.done()
    running.predictor.gate.set()
    assert in_flight.result(timeout=10)
    drain.join(10)
    assert not drain.is_alive(), "a watcher that stays must not hold the drain up"
    watcher.join()


def test_between_notice_and_stop_calls_are_still_served(start, good, check):
    running = start()
    drain = threading.Thread(target=running.server.drain, args=(5.0, 1.0))
    drain.start()
    eventually(lambda: check(running.channel) == "NOT_SERVING")
    assert running.classify(good)
    drain.join()
    assert running.refusal(good).code() is grpc.StatusCode.UNAVAILABLE


def test_a_call_that_outlives_the_grace_is_cancelled(start, good):
    running = start()
    running.predictor.gate.clear()
    in_flight = running.begin(good)
    eventually(lambda: running.in_flight() == 1)
    started = time.monotonic()
    running.server.drain(0.1)
    assert time.monotonic() - started < 5
    code = in_flight.exception(timeout=10).code()
    assert code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_a_port_that_cannot_be_bound_is_an_error_that_names_it(start):
    with pytest.raises(PortUnavailable, match=r"192\.0\.2\.1:0"):
        start(GRPC_HOST="192.0.2.1")
