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
from model_runtime.digits import held_out
from seldon_pb2 import ClassificationRequest, DefaultCustomPredictRequest


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


def test_random_numbers_have_two_decimals_in_json_and_all_in_grpc() -> None:
    sent = payloads.random_numbers(784, seed=1)
    assert sent.labels is None
    for text, data in zip(sent.url_json[:5], sent.request_data[:5], strict=True):
        in_json, in_grpc = json_values(text), grpc_values(data)
        assert len(in_json) == len(in_grpc) == 784
        assert in_json == [round(value, 2) for value in in_json]
        np.testing.assert_allclose(in_json, in_grpc, atol=0.0051)
        assert any(value != round(value, 2) for value in in_grpc)


def test_random_numbers_follow_the_seed() -> None:
    assert payloads.random_numbers(10, 1) == payloads.random_numbers(10, 1)
    assert payloads.random_numbers(10, 1) != payloads.random_numbers(10, 2)


def test_a_url_holds_no_character_that_needs_an_escape() -> None:
    for text in (payloads.digits().url_json[0], payloads.random_numbers(784, 1).url_json[0]):
        assert not set(text) & set(' "{}\\')


def test_every_instance_comes_once_a_round_in_the_users_own_order() -> None:
    first, second = (
        list(itertools.islice(payloads.in_own_order(200, random.Random(seed)), 400))  # noqa: S311
        for seed in (1, 2)
    )
    assert sorted(first[:200]) == list(range(200))
    assert first[:200] == first[200:]
    assert first != second


def test_model_wrong_reads_the_model(tmp_path: Path) -> None:
    assert payloads.model_wrong(None) is None
    # As the training writes it.
    misses = [{"index": i, "label": 4, "predicted": 9} for i in (3, 199)]
    document = {"accuracy": {"held_out": {"wrong": misses}}}
    (tmp_path / "model.json").write_text(json.dumps(document))
    assert payloads.model_wrong(tmp_path) == {3, 199}
    (tmp_path / "model.json").write_text('{"name": "mine"}')
    assert payloads.model_wrong(tmp_path) is None


def test_a_model_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match=r"--model-folder .* no readable model.json"):
        payloads.model_wrong(tmp_path)
