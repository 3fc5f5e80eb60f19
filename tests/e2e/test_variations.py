"""Two variations of a client's traffic: who gets which part, and a change of that under load."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import repeat
from math import sqrt
from statistics import NormalDist

import grpc
import pytest
import requests
from google.protobuf.any_pb2 import Any

import seldon_pb2
import seldon_pb2_grpc
from local_stack import CLIENT, ROOT, Stack
from serving_core.digits import held_out

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

CALLERS = 4
REQUESTS = 5_000
# Of each of eight draws: by chance one run in 12,000 fails.
CERTAINTY = 0.99999
DIGIT = held_out().images[0]

# Answers with the label of the variation that did.
Call = Callable[[], str]


@pytest.fixture(scope="module")
def own_stack(new_stack: Callable[[], Stack]) -> Iterator[Stack]:
    stack = new_stack()
    stack.deploy()
    yield stack
    stack.undeploy()


@pytest.fixture(params=["rest", "rpc"])
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def calls(own_stack: Stack, api: str) -> Iterator[list[Call]]:
    """One for each caller, with a connection of its own."""
    connect = rest_call if api == "rest" else grpc_call
    with ExitStack() as connections:
        yield [connect(own_stack, connections) for _ in range(CALLERS)]


def rest_call(stack: Stack, connections: ExitStack) -> Call:
    session = connections.enter_context(requests.Session())
    url = f"{stack.url}/js/predict?consumer_key={stack.credentials().js_key}"
    document = json.dumps({"data": DIGIT.tolist()})

    def call() -> str:
        answer = session.post(url, document, timeout=10)
        answer.raise_for_status()
        return str(answer.json()["meta"]["variation"])

    return call


def grpc_call(stack: Stack, connections: ExitStack) -> Call:
    own = [("grpc.use_local_subchannel_pool", 1)]
    channel = connections.enter_context(grpc.insecure_channel(stack.grpc_target, own))
    classify = seldon_pb2_grpc.SeldonStub(channel).Classify
    metadata = (("oauth_token", stack.token()),)
    data = Any()
    data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=DIGIT))
    request = seldon_pb2.ClassificationRequest(data=data)
    return lambda: str(classify(request, metadata=metadata, timeout=10).meta.variation)


def share(stack: Stack, api: str, first: float, second: float) -> None:
    folder = str(ROOT / "models" / "deep_mnist" / "1")
    stack.run(
        *("start-microservice", "--type", "prediction", "--client", CLIENT),
        *("-p", "mnist-a", folder, api, str(first), "-p", "mnist-b", folder, api, str(second)),
    )


def labels(calls: list[Call], count: int) -> Counter[str]:
    """Who answered `count` calls; the first that fails ends them."""

    def some(call: Call) -> Counter[str]:
        return Counter(call() for _ in repeat(None, count // len(calls)))

    with ThreadPoolExecutor(len(calls)) as pool:
        return sum(pool.map(some, calls), Counter())


@contextmanager
def under_load(calls: list[Call]) -> Iterator[None]:
    """Calls without a pause, of which none may fail and each variation must answer some."""
    done = threading.Event()

    def go_on(call: Call) -> Counter[str]:
        answered: Counter[str] = Counter()
        while not done.is_set():
            answered[call()] += 1
        return answered

    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(go_on, call) for call in calls]
        try:
            yield
        finally:
            done.set()
    answered = sum((one.result() for one in running), Counter[str]())
    assert set(answered) == {"mnist-a", "mnist-b"}


def assert_shared(answered: Counter[str], ratio: float) -> None:
    """`ratio` is the first variation's: the second's number is binomial, nearly normal."""
    count = answered.total()
    assert set(answered) == {"mnist-a", "mnist-b"}
    number = NormalDist(count * ratio, sqrt(count * ratio * (1 - ratio)))
    low, high = (number.inv_cdf(q) for q in ((1 - CERTAINTY) / 2, (1 + CERTAINTY) / 2))
    assert low <= answered["mnist-a"] <= high


def test_the_traffic_is_split_by_the_ratios(own_stack: Stack, api: str, calls: list[Call]) -> None:
    share(own_stack, api, 0.9, 0.1)
    assert_shared(labels(calls, REQUESTS), 0.9)


def test_ratios_change_under_load_without_a_failure(
    own_stack: Stack, api: str, calls: list[Call]
) -> None:
    share(own_stack, api, 0.9, 0.1)
    asked, loading = calls[:1], calls[1:]
    with under_load(loading):
        for ratio in (0.5, 0.1, 0.9):
            share(own_stack, api, ratio, round(1 - ratio, 1))
            assert_shared(labels(asked, 1000), ratio)
