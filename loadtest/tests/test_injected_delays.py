"""20 ms put into one layer is found in that layer: load tests of both protocols."""

from collections.abc import Callable
from typing import Any

import pytest

from loadtest.attribution import (
    CLIENT_AND_NETWORK,
    GATEWAY,
    INFERENCE,
    OTHER_SERVER,
)

pytestmark = pytest.mark.truth

INJECTED_MS = 20.0
WITHIN_MS = 2.0
LAYERS = {
    "--gateway-ms": GATEWAY,
    "--server-ms": OTHER_SERVER,
    "--network-ms": CLIENT_AND_NETWORK,
}


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_delay_is_found_where_it_was_put(
    protocol: str, start_queue: Callable[..., Any], begin_launch: Any, finish_launch: Any
) -> None:
    parts: dict[str, dict[str, dict[str, float]]] = {}
    test_type = {"rest": "js-predict", "grpc": "grpc-predict"}[protocol]
    for option in ("none", *LAYERS):
        delays = [] if option == "none" else [option, str(INJECTED_MS)]
        stub = start_queue("--service-ms", "2", "--servers", "8", *delays)
        name = f"{protocol}{option}"
        options = ("--test-type", test_type, "--duration", "4", "--rate", "50")
        done = finish_launch(
            name, begin_launch(name, *options, host=stub.port, grpc=stub.grpc_port)
        )
        stub.process.kill()
        assert done.summary["failures"] == 0, done.err
        parts[option] = {
            statistic: one["parts"] for statistic, one in done.summary["attribution"].items()
        }
    for option, layer in LAYERS.items():
        for statistic in ("mean", "p50"):
            before, after = parts["none"][statistic], parts[option][statistic]
            for part in before:
                expected = INJECTED_MS if part == layer else 0.0
                assert after[part] - before[part] == pytest.approx(expected, abs=WITHIN_MS), (
                    option,
                    statistic,
                    part,
                )
    assert parts["none"]["p50"][INFERENCE] == pytest.approx(2, abs=WITHIN_MS)
