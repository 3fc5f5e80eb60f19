"""Registries, model servers and gateways, made for the tests and ended with them."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from seldon_gateway.registry import Registry

# Under --import-mode=importlib a test module finds no neighbour by itself.
sys.path.insert(0, str(Path(__file__).parent))
from gateway_under_test import GatewayUnderTest, GrpcUpstream, HttpUpstream


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/seldon.db"


@pytest.fixture
def registry(database_url: str) -> Iterator[Registry]:
    """An empty one in SQLite."""
    opened = Registry.open(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def start_gateway() -> Iterator[Callable[..., GatewayUnderTest]]:
    """Starts gateways with the given settings; they end with the module."""
    home = Path(tempfile.mkdtemp(prefix="gateway-"))
    with ExitStack() as stack:

        def start(prepare: Callable[[GatewayUnderTest], None], **environ: str) -> GatewayUnderTest:
            gateway = GatewayUnderTest(Path(tempfile.mkdtemp(dir=home)), **environ)
            stack.callback(gateway.close)
            prepare(gateway)
            gateway.start()
            return gateway

        yield start
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def http_upstream() -> Iterator[HttpUpstream]:
    upstream = HttpUpstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def grpc_upstream() -> Iterator[GrpcUpstream]:
    upstream = GrpcUpstream()
    yield upstream
    upstream.close()


@pytest.fixture
def make_upstream() -> Iterator[Callable[..., HttpUpstream]]:
    """Starts further model servers; they end with the test."""
    with ExitStack() as stack:

        def make(*behaviour: Callable[[], bool]) -> HttpUpstream:
            upstream = HttpUpstream(*behaviour)
            stack.callback(upstream.close)
            return upstream

        yield make
