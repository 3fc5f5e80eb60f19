from typing import Any

import pytest

from seldon_gateway import strategies
from seldon_gateway.errors import InvalidStrategy
from seldon_gateway.strategies import Endpoint, Strategy, Variation

URL = "io.seldon.algorithm.external.url"
NAME = "io.seldon.algorithm.external.name"
HOST = "io.seldon.rpc.microservice.host"
PORT = "io.seldon.rpc.microservice.port"


def rest_algorithm(*urls: str) -> dict[str, Any]:
    config = [{"name": URL, "value": url} for url in urls] + [{"name": NAME, "value": "m"}]
    return {"name": "externalPredictionServer", "config": config}


def grpc_algorithm(*pairs: tuple[str, str]) -> dict[str, Any]:
    config = []
    for host, port in pairs:
        config += [{"name": HOST, "value": host}, {"name": PORT, "value": port}]
    return {"name": "rpcPredictionServer", "config": config}


def variation(label: Any, ratio: Any, *algorithms: Any) -> dict[str, Any]:
    return {"label": label, "ratio": ratio, "config": {"algorithms": list(algorithms)}}


def variations(*entries: Any) -> dict[str, Any]:
    return {"variations": list(entries)}


REST = rest_algorithm("http://model:5000/predict")
GRPC = grpc_algorithm(("model", "5001"))


def test_variations_are_sorted_by_protocol() -> None:
    document = variations(
        variation("a", 0.8, rest_algorithm("http://one:5000/predict")),
        variation("b", 0.2, rest_algorithm("http://two/predict")),
        variation("c", 1.0, grpc_algorithm(("three", "5001"))),
    )
    assert strategies.parse(document) == Strategy(
        rest=(
            Variation("a", 0.8, (Endpoint("one", 5000),)),
            Variation("b", 0.2, (Endpoint("two", 80),)),
        ),
        grpc=(Variation("c", 1.0, (Endpoint("three", 5001),)),),
    )


def test_the_form_without_ratios_is_one_variation_of_each_protocol() -> None:
    assert strategies.parse({"algorithms": [REST, GRPC]}) == Strategy(
        rest=(Variation("default", 1.0, (Endpoint("model", 5000),)),),
        grpc=(Variation("default", 1.0, (Endpoint("model", 5001),)),),
    )


def test_entries_that_repeat_are_replicas() -> None:
    urls = ("http://10.0.0.1:5000/predict", "http://10.0.0.2:5000/predict")
    pairs = (("10.0.0.1", "5001"), ("10.0.0.2", "5002"))
    parsed = strategies.parse({"algorithms": [rest_algorithm(*urls), grpc_algorithm(*pairs)]})
    assert parsed.rest[0].endpoints == (Endpoint("10.0.0.1", 5000), Endpoint("10.0.0.2", 5000))
    assert parsed.grpc[0].endpoints == (Endpoint("10.0.0.1", 5001), Endpoint("10.0.0.2", 5002))


def test_what_is_written_is_read_back_the_same() -> None:
    strategy = Strategy(
        rest=(
            Variation("a", 0.25, (Endpoint("one", 1), Endpoint("two", 2))),
            Variation("b", 0.75, (Endpoint("three", 3),)),
        ),
        grpc=(Variation("a", 1.0, (Endpoint("127.0.0.1", 4), Endpoint("model.svc", 5))),),
    )
    assert strategies.parse(strategies.render(strategy)) == strategy


def test_ipv6_addresses_stand_in_brackets() -> None:
    strategy = Strategy(
        rest=(Variation("a", 1.0, (Endpoint("[::1]", 5000),)),),
        grpc=(Variation("a", 1.0, (Endpoint("[::1]", 5001),)),),
    )
    assert strategies.parse(strategies.render(strategy)) == strategy


def test_numbers_may_be_texts() -> None:
    assert strategies.parse(variations(variation("a", "1.0", REST))).rest[0].ratio == 1.0


def test_no_variations_are_a_strategy_that_serves_nothing() -> None:
    assert strategies.parse(variations()) == Strategy()


def test_ten_tenths_are_one() -> None:
    document = variations(*(variation(f"v{i}", 0.1, REST) for i in range(10)))
    assert len(strategies.parse(document).rest) == 10


def test_ratios_that_do_not_sum_to_one_are_refused() -> None:
    document = variations(variation("a", 0.4, REST), variation("b", 0.4, REST))
    with pytest.raises(InvalidStrategy, match=r"rest variations sum to 0\.8, expected 1\.0"):
        strategies.parse(document)


def test_rest_and_grpc_are_counted_apart_and_the_refusal_says_so() -> None:
    document = variations(variation("a", 0.5, REST), variation("b", 0.5, GRPC))
    with pytest.raises(InvalidStrategy) as refused:
        strategies.parse(document)
    assert str(refused.value) == (
        "the ratios of the rest variations sum to 0.5, expected 1.0 "
        "(REST and gRPC variations are summed separately)"
    )


def test_rest_and_grpc_may_use_the_same_label() -> None:
    strategies.parse(variations(variation("a", 1, REST), variation("a", 1, GRPC)))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not a JSON object"),
        (None, "not a JSON object"),
        ({}, "neither variations nor algorithms"),
        ({"variations": {}}, "variations is not a list"),
        (variations(*[variation("a", 1, REST)] * 101), "at most 100"),
        (variations("a"), r"variations\[0\] is not an object"),
        (variations(variation(None, 1, REST)), r"variations\[0\]\.label"),
        (variations(variation("a b", 1, REST)), "label is 'a b'"),
        (variations(variation("x" * 64, 1, REST)), "1 to 63"),
        (variations(variation("a", None, REST)), r"variations\[0\]\.ratio is None"),
        (variations(variation("a", "half", REST)), r"variations\[0\]\.ratio is 'half'"),
        (variations(variation("a", [1], REST)), r"variations\[0\]\.ratio"),
        (variations(variation("a", 0, REST)), "ratio of a is 0"),
        (variations(variation("a", -1, REST)), "ratio of a is -1"),
        (variations(variation("a", 1.5, REST)), "ratio of a is 1.5"),
        (variations(variation("a", float("nan"), REST)), "ratio of a is nan"),
        (variations(variation("a", 0.5, REST), variation("a", 0.5, REST)), "expected each once"),
        (variations({"label": "a", "ratio": 1}), r"variations\[0\]\.config\.algorithms"),
        (variations(variation("a", 1)), "has 0 entries, expected 1"),
        (variations(variation("a", 1, REST, GRPC)), "has 2 entries, expected 1"),
        ({"algorithms": "x"}, "algorithms is missing or not a list"),
        ({"algorithms": [{"name": "recentItems"}]}, r"algorithms\[0\]\.name is 'recentItems'"),
        ({"algorithms": [7]}, r"algorithms\[0\]\.name is None"),
        ({"algorithms": [{**REST, "config": None}]}, r"algorithms\[0\]\.config is missing"),
        ({"algorithms": [{**REST, "config": [1]}]}, "without name and value"),
        ({"algorithms": [{**REST, "config": []}]}, f"has no {URL}"),
        ({"algorithms": [{**GRPC, "config": []}]}, f"has no {HOST}"),
        ({"algorithms": [{**GRPC, "config": GRPC["config"][:1]}]}, f"has no {PORT}"),
        (
            {"algorithms": [{**GRPC, "config": GRPC["config"] + GRPC["config"][:1]}]},
            "2 hosts, 1 ports",
        ),
        ({"algorithms": [rest_algorithm("predict")]}, "'predict' is not a URL"),
        ({"algorithms": [rest_algorithm("http://[x/predict")]}, "is not a URL"),
        ({"algorithms": [rest_algorithm("http://a:99999/")]}, "is not a URL"),
        ({"algorithms": [rest_algorithm("http://a:0/")]}, "port is '0'"),
        # Parts that would be ignored.
        ({"algorithms": [rest_algorithm("https://a/predict")]}, "is not a URL"),
        ({"algorithms": [rest_algorithm("ftp://a/predict")]}, "is not a URL"),
        ({"algorithms": [rest_algorithm("http://user:pw@a/predict")]}, "is not a URL"),
        ({"algorithms": [rest_algorithm("http://a/other")]}, "is not a URL"),
        ({"algorithms": [rest_algorithm("http://a/predict?x=1")]}, "is not a URL"),
        ({"algorithms": [rest_algorithm(f"http://a:{'9' * 5000}/")]}, "is not a URL"),
        ({"algorithms": [rest_algorithm("http://a_b c/")]}, "is not a host name"),
        ({"algorithms": [grpc_algorithm(("a", "0"))]}, "port is '0', expected 1 to 65535"),
        ({"algorithms": [grpc_algorithm(("a", "http"))]}, "port is 'http'"),
        ({"algorithms": [grpc_algorithm(("", "1"))]}, "'' is not a host name"),
    ],
)
def test_a_wrong_document_is_refused_by_field(document: Any, message: str) -> None:
    with pytest.raises(InvalidStrategy, match=message):
        strategies.parse(document)
