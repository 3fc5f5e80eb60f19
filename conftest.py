"""For the tests of every package."""

import sys
from collections.abc import Iterator

import pytest


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Say what is missing after `make setup`, whose Locust installs pytest alone."""
    if not pluginmanager.hasplugin("timeout"):
        raise pytest.UsageError("the plugin pytest-timeout is not installed; run make setup-dev")


@pytest.fixture(autouse=True)
def _without_tensorflow() -> Iterator[None]:
    """All tests run in one process, in which protoc crashes beside TensorFlow's protobuf."""
    yield
    if sys.modules.get("tensorflow") is not None:
        pytest.fail("this test has loaded TensorFlow: do so in a process of its own")
