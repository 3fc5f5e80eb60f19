"""What is sent is what was meant, bit by bit."""

import itertools
import json
import random
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from loadtest import payloads, wire
from loadtest.errors import SettingInvalid
from seldon_pb2 import ClassificationRequest, DefaultCustomPredictRequest
from serving_core.digits import held_out


def json_values(text: str) -> list[float]:
    return json.loads(unquote(text))["data"]


def grpc_values(data: bytes, puid: str = "p") -> list[float]:
    request = ClassificationRequest.FromString(wire.with_puid(puid, data))
    assert request.meta.puid == puid
    instance = DefaultCustomPredictRequest()
    assert request.data.Unpack(instance)
    return list(instance.values)


def test_both_protocols_send_the_digits_bit_by_bit() -> None:
    sent = payloads.digits()
    assert len(sent) == 200
    assert sent.labels == tuple(held_out().labels)
    for text, data, image in zip(sent.url_json, sent.request_data, held_out().images, strict=True):
        np.testing.assert_array_equal(np.array(json_values(text), np.float32), image)
        np.testing.assert_array_equal(np.array(grpc_values(data), np.float32), image)


def test_a_digit_fits_the_request_line_of_the_original() -> None:
    assert max(map(len, payloads.digits().url_json)) < 8192


def test_two_decimals_are_those_of_both_protocols() -> None:
    sent = payloads.digits("2")
    for text, data in zip(sent.documents[:5], sent.request_data[:5], strict=True):
        in_json, in_grpc = json.loads(text)["data"], grpc_values(data)
        assert len(in_json) == len(in_grpc) == 784
        assert in_json == [round(value, 2) for value in in_json]
        np.testing.assert_array_equal(np.array(in_json, np.float32), np.array(in_grpc, np.float32))
    full = payloads.digits()
    assert any(value != round(value, 2) for value in json.loads(full.documents[0])["data"])
    assert len(full.documents[0]) > 1.2 * len(sent.documents[0])


def test_several_images_in_a_request_are_neighbours() -> None:
    sent = payloads.digits(images=3)
    images = held_out().images
    for index in (0, 7, 199):
        expected = np.array([images[(index + place) % 200] for place in range(3)])
        rows = np.array(json.loads(sent.documents[index])["data"], np.float32)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(
            np.array(grpc_values(sent.request_data[index]), np.float32), expected.ravel()
        )


def test_rest_asks_in_two_forms() -> None:
    sent = payloads.digits()
    method, target, body = wire.rest_request("jsonp-get", "a key", sent, 3)
    assert (method, body) == ("GET", b"")
    assert target.startswith("/js/predict?consumer_key=a%20key&json=%7B%22data%22:[")
    assert target.endswith("&jsonpCallback=j&puid=")
    method, target, body = wire.rest_request("json-post", "a key", sent, 3)
    assert (method, target) == ("POST", "/js/predict?consumer_key=a%20key&puid=")
    assert body.decode() == sent.documents[3]


def test_a_url_holds_no_character_that_needs_an_escape() -> None:
    for text in payloads.digits().url_json:
        assert not set(text) & set(' "{}\\')


def test_every_instance_comes_once_a_round_in_the_users_own_order() -> None:
    first, second = (
        list(itertools.islice(payloads.shuffled(200, random.Random(seed)), 400))  # noqa: S311
        for seed in (1, 2)
    )
    assert sorted(first[:200]) == list(range(200))
    assert first[:200] == first[200:]
    assert first != second


def test_model_wrong_reads_the_model(tmp_path: Path) -> None:
    assert payloads.misclassified(None) is None
    # As the training writes it.
    misses = [{"index": i, "label": 4, "predicted": 9} for i in (3, 199)]
    document = {"accuracy": {"held_out": {"wrong": misses}}}
    (tmp_path / "model.json").write_text(json.dumps(document))
    assert payloads.misclassified(tmp_path) == {3, 199}
    (tmp_path / "model.json").write_text('{"name": "mine"}')
    assert payloads.misclassified(tmp_path) is None


def test_a_model_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match=r"--model-folder .* no readable model.json"):
        payloads.misclassified(tmp_path)
