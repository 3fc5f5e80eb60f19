"""The undocumented parts of grpcio that call_loop.py uses are there.

pyproject.toml bounds grpcio to the versions whose parts these are; that they work together is what
every other test of this folder shows.
"""

import inspect
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import grpc
import pytest
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

OPERATIONS = {
    "SendInitialMetadataOperation": 2,
    "SendMessageOperation": 2,
    "SendStatusFromServerOperation": 4,
    "ReceiveMessageOperation": 1,
    "ReceiveCloseOnServerOperation": 1,
}
FUNCTIONS = {
    "_request_registered_call": ["state", "method"],
    "_request_call": ["state"],
    "_process_event_and_continue": ["state", "event"],
}


def changed(what: str) -> str:
    return (
        f"grpcio {version('grpcio')} has changed {what}; adapt call_loop.py, then raise the bound"
    )


@pytest.mark.parametrize(("name", "arguments"), OPERATIONS.items())
def test_the_core_has_the_operations_of_a_call(name: str, arguments: int) -> None:
    operation = getattr(cygrpc, name, None)
    assert operation is not None, changed(f"cygrpc.{name}")
    values = {1: (0,), 2: (None, 0), 4: ((), 0, b"", 0)}[arguments]
    assert operation(*values), changed(f"the arguments of cygrpc.{name}")


@pytest.mark.parametrize(("name", "parameters"), FUNCTIONS.items())
def test_grpcs_server_requests_calls_and_processes_events(name: str, parameters: list[str]) -> None:
    function = getattr(_server, name, None)
    assert function is not None, changed(f"grpc._server.{name}")
    found = list(inspect.signature(function).parameters)
    assert found == parameters, changed(f"the parameters of grpc._server.{name}")


def test_grpcs_server_has_a_state_with_a_core_and_its_queue() -> None:
    assert hasattr(_server, "_ServerStage"), changed("grpc._server._ServerStage")
    assert hasattr(_server._ServerStage, "STARTED"), changed("_ServerStage.STARTED")
    assert hasattr(cygrpc.CompletionType, "queue_timeout"), changed("CompletionType.queue_timeout")
    server = grpc.server(ThreadPoolExecutor(1))
    try:
        state = getattr(server, "_state", None)
        assert state is not None, changed("the server's _state")
        parts = ("lock", "server", "completion_queue", "stage", "registered_method_handlers")
        for part in parts:
            assert hasattr(state, part), changed(f"the state's {part}")
        for method in ("start", "register_method", "request_registered_call"):
            assert hasattr(state.server, method), changed(f"cygrpc.Server.{method}")
        event = state.completion_queue.poll(deadline=0)
        for part in ("completion_type", "tag", "success"):
            assert hasattr(event, part), changed(f"the event's {part}")
        expected = cygrpc.CompletionType.queue_timeout
        assert event.completion_type == expected, changed("CompletionQueue.poll(deadline=0)")
    finally:
        server.stop(None)
