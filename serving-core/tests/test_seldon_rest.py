import json
from urllib.parse import parse_qsl, quote, quote_plus

import numpy as np
import pytest

from serving_core import Computed, ErrorKind, InvalidInput, Served
from serving_core.exchange import InferenceRequest, server_timing
from serving_core.predictor import classifier_of
from serving_core.protocols.http import HttpRequest
from serving_core.protocols.seldon import rest
from serving_core.protocols.seldon.instances import parse_instances
from serving_core.protocols.seldon.rest import ErrorCode, RequestRefused
from serving_core.testing import classifier_info

CLASSES = tuple("0123456789")


def test_every_kind_of_serving_error_has_a_code() -> None:
    assert set(rest.CODE_OF_KIND) == set(ErrorKind)


def test_error_ids_are_the_contracts() -> None:
    ids = {code.name: (code.error_id, int(code.status)) for code in ErrorCode}
    assert ids == {
        "METHOD_NOT_ALLOWED": (11, 405),
        "GENERIC": (13, 500),
        "NOT_FOUND": (21, 404),
        "BROKEN_JSON": (38, 400),
        "WRONG_DATA": (40, 400),
        "NOT_READY": (41, 503),
        "OVERLOADED": (42, 429),
        "DEADLINE_PASSED": (43, 504),
        "BODY_TIMEOUT": (43, 408),
        "TOO_LARGE": (44, 413),
        "CONTENT_TYPE": (45, 415),
        "CALLBACK": (46, 400),
    }


def test_the_first_of_repeated_parameters_counts() -> None:
    assert rest.parse_parameters(b"json=1&json=2&puid=&a=%C3%A9") == {
        "json": "1",
        "puid": "",
        "a": "é",
    }


@pytest.mark.parametrize(
    "value",
    [
        '{"data": [0, 0.5], "meta": {"puid": "a+b&c=d%20%2C"}}',
        "%2520%%2C%25",
        "% 2C",
        "é \u2028\0%",
        "".join(map(chr, range(256))),
    ],
)
def test_parameters_survive_every_way_of_encoding(value: str) -> None:
    every = "".join(f"%{byte:02x}" for byte in value.encode())
    for raw in (quote(value), quote(value, safe=""), quote_plus(value), every, every.upper()):
        assert rest.parse_parameters(f"json={raw}&puid=p".encode()) == {"json": value, "puid": "p"}


@pytest.mark.parametrize(
    "raw", [b"a=%2%2C", b"a=%%20", b"a=%zz%2", b"a=%2%20C", b"a=%+20", b"%20a=%3D"]
)
def test_parameters_are_read_as_the_standard_library_reads_them(raw: bytes) -> None:
    expected = dict(parse_qsl(raw.decode(), keep_blank_values=True))
    assert rest.parse_parameters(raw) == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"json=%ff%fe", "not UTF-8"),
        (b"json=\xff", "not UTF-8"),
        (b"&".join(b"x%d=1" % index for index in range(2000)), "more than 1024 parameters"),
    ],
)
def test_parameters_that_cannot_be_read_are_refused(raw: bytes, message: str) -> None:
    with pytest.raises(RequestRefused, match=message):
        rest.parse_parameters(raw)


@pytest.mark.parametrize(
    "text",
    [
        '{"data":[1,2],"meta":{"puid":"a:b::c"}}',
        '{"data" : [1,2] , "meta" : {"puid":"a:b::c", "deeper": {"and": {"deeper": ":"}}}}',
        '{"meta":{"puid":"a:b::c"},"data":[1,2],"other":[{"a":1},{"a":2}]}',
    ],
)
def test_a_document_is_read_wherever_its_colons_are(text: str) -> None:
    assert rest.parse_document(text, "json")[:2] == ([1, 2], "a:b::c")
    assert rest.parse_document(text.encode(), "the body")[:2] == ([1, 2], "a:b::c")


@pytest.mark.parametrize("text", ['{"data":1}', '{"data":1,"meta":null}', '{"data":1,"meta":{}}'])
def test_meta_may_be_absent_null_or_empty(text: str) -> None:
    assert rest.parse_document(text, "json")[:2] == (1, None)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", ErrorCode.BROKEN_JSON, "json is empty"),
        (" ", ErrorCode.BROKEN_JSON, "Invalid JSON"),
        ('{"data":[1,2', ErrorCode.BROKEN_JSON, "at line 1 column 13"),
        ('{"data":\n[1,}', ErrorCode.BROKEN_JSON, "at line 2 column 4"),
        ('{"data":[1]} x', ErrorCode.BROKEN_JSON, "after document"),
        ('{"data":[1]}{"data":[2]}', ErrorCode.BROKEN_JSON, "after document"),
        ('{"data":[NaN]}', ErrorCode.BROKEN_JSON, "column 10"),
        ('{"data":[-Infinity]}', ErrorCode.BROKEN_JSON, "Invalid JSON"),
        ('{"data":[1e999]}', ErrorCode.BROKEN_JSON, "infinity"),
        ('{"data":["\\ud800"]}', ErrorCode.BROKEN_JSON, "surrogate"),
        (b'{"data":["\xff"]}', ErrorCode.BROKEN_JSON, "UTF-8"),
        (b"\xff\xfe{\0}\0", ErrorCode.BROKEN_JSON, "Invalid JSON"),
        ("[" * 10_000 + "]" * 10_000, ErrorCode.BROKEN_JSON, "depth limit"),
        ('{"data":' * 10_000 + "1" + "}" * 10_000, ErrorCode.BROKEN_JSON, "depth limit"),
        ('{"data":[1],"data":[2]}', ErrorCode.BROKEN_JSON, "'data' appears twice"),
        ('{"data":{"x000":1,"x000":2}}', ErrorCode.BROKEN_JSON, "'x000' appears twice"),
        ('{"data":[1],"meta":{"puid":"a","puid":"b"}}', ErrorCode.BROKEN_JSON, "'puid' appears"),
        ('{"data":[1],"m":{"a":{"b":1,"b":2}}}', ErrorCode.BROKEN_JSON, "'b' appears twice"),
        ('{"data":[1],"d\\u0061ta":[2]}', ErrorCode.BROKEN_JSON, "'data' appears twice"),
        ("[1,2]", ErrorCode.WRONG_DATA, "json is a list, expected an object"),
        ("7", ErrorCode.WRONG_DATA, "json is a number, expected an object"),
        ('"text"', ErrorCode.WRONG_DATA, "json is a string, expected an object"),
        ("null", ErrorCode.WRONG_DATA, "json is null, expected an object"),
        ("{}", ErrorCode.WRONG_DATA, "data is missing"),
        ('{"data":[1],"meta":[]}', ErrorCode.WRONG_DATA, "meta is a list, expected an object"),
        ('{"data":[1],"meta":"x"}', ErrorCode.WRONG_DATA, "meta is a string, expected an object"),
        ('{"data":[1],"meta":{"puid":7}}', ErrorCode.WRONG_DATA, "meta.puid is a number"),
        ('{"data":[1],"meta":{"puid":true}}', ErrorCode.WRONG_DATA, "meta.puid is a boolean"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_document_is_refused_with_its_place(
    text: str | bytes, code: ErrorCode, message: str
) -> None:
    with pytest.raises(RequestRefused, match=message) as refusal:
        rest.parse_document(text, "json")
    assert refusal.value.code is code


def test_a_document_with_keys_deep_in_lists_is_refused() -> None:
    """Python before 3.12 cannot parse it; after that the check of data refuses it."""
    text = '{"data":' + "[" * 1000 + '{"a":1}' + "]" * 1000 + "}"
    with pytest.raises((RequestRefused, InvalidInput), match="nested deeper than"):
        parse_instances(rest.parse_document(text, "json").data, 784)


def test_the_parameters_puid_wins_over_the_documents() -> None:
    assert rest.choose_puid("mine", "other") == "mine"
    assert rest.choose_puid("", "other") == "other"
    assert rest.choose_puid("a" * 256, None) == "a" * 256


def test_fresh_puids_are_40_hex_digits_and_differ() -> None:
    fresh = {rest.choose_puid("", None) for _ in range(1000)}
    assert len(fresh) == 1000
    assert all(len(puid) == 40 and int(puid, 16) >= 0 for puid in fresh)


@pytest.mark.parametrize(("parameter", "field"), [("p" * 257, "puid"), ("", "meta.puid")])
def test_a_long_puid_is_refused_by_name_and_limit(parameter: str, field: str) -> None:
    with pytest.raises(RequestRefused, match=f"^{field} has 257 characters, limit 256"):
        rest.choose_puid(parameter, "d" * 257)


@pytest.mark.parametrize("name", ["", "j", "jQuery123_456", "a.b.c$", "x" * 128])
def test_callbacks_that_name_a_function_pass(name: str) -> None:
    assert rest.check_callback(name) == name


@pytest.mark.parametrize("name", ["a(", "a;b", "<script>", "a b", "é", "a\n", "x" * 129, "a[0]"])
def test_callbacks_with_anything_else_are_refused(name: str) -> None:
    with pytest.raises(RequestRefused, match="jsonpCallback") as refusal:
        rest.check_callback(name)
    assert refusal.value.code is ErrorCode.CALLBACK


def test_jsonp_has_no_line_ends_that_javascript_would_see() -> None:
    wrapped = rest.wrap("j", json.dumps({"puid": "a\u2028b\u2029c"}, ensure_ascii=False).encode())
    assert wrapped == rb'j({"puid": "a\u2028b\u2029c"})'


def test_reply_has_the_contracts_shape_and_exact_numbers() -> None:
    scores = np.random.default_rng(7).dirichlet(np.ones(10)).astype(np.float32)
    scores[3] = 0.0
    scores[4] = np.float32(1.2e-38)
    served = Served(classifier_info(name="deep_mnist"), "v1")
    request = InferenceRequest({}, 1, "p", (classifier_of(served.model), ""))
    computed = Computed({"probabilities": scores[np.newaxis]}, 0.0, 0.0, 1)
    response = rest.encode(HttpRequest("/predict", "POST", ""), request, computed, served)
    document = json.loads(response.body)
    assert list(document) == ["meta", "predictions", "custom"]
    assert document["meta"] == {"puid": "p", "modelName": "deep_mnist", "variation": "v1"}
    assert document["custom"] is None
    assert [p["predictedClass"] for p in document["predictions"]] == list(CLASSES)
    for score, prediction in zip(scores, document["predictions"], strict=True):
        # Equal as doubles: gRPC widens the same float32.
        assert prediction["prediction"] == prediction["confidence"] == float(score)


def test_server_timing_is_in_milliseconds() -> None:
    assert (
        server_timing(0.000901, 0.000012, 0.000613)
        == "queue;dur=0.012, compute;dur=0.613, total;dur=0.901"
    )
    assert server_timing(0.0011) == "total;dur=1.100"
