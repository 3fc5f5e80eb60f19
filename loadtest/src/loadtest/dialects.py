"""The payload of a run in its dialect: digits by Seldon's protocol, any other by Open Inference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest import answers, payloads, wire
from loadtest.datasets import random_rows, read_rows
from loadtest.open_inference import OpenInferencePayload
from loadtest.payloads import FULL, RANDOM, Payload, Payloads, Template
from loadtest.settings import LoadTestSettings
from seldon_pb2 import ClassificationReply
from serving_core.tensors import Signature


@dataclass(frozen=True)
class SeldonPayload:
    """Digits, as the original's client sends them; see payloads.Payload."""

    instances: Payloads
    rest_form: str = wire.JSONP_GET
    js_key: str = ""

    dialect = payloads.SELDON
    method = wire.CLASSIFY
    needs_token = False
    reply = staticmethod(ClassificationReply.FromString)

    @property
    def labels(self) -> tuple[int, ...]:
        return self.instances.labels

    @property
    def images(self) -> int:
        return self.instances.images

    def __len__(self) -> int:
        return len(self.instances)

    def template(self, instance: int) -> Template:
        return Template(*wire.rest_request(self.rest_form, self.js_key, self.instances, instance))

    def message(self, instance: int, puid: str) -> bytes:
        return wire.with_puid(puid, self.instances.request_data[instance])

    def judge_document(self, status: int, document: Any, puid: str) -> tuple[int, ...]:
        return answers.judge(answers.of_document(status, document), puid, self.images)

    def judge_reply(self, reply: ClassificationReply, puid: str) -> tuple[int, ...]:
        return answers.judge(answers.of_reply(reply), puid, self.images)


def payload_of(
    settings: LoadTestSettings, js_key: str = "", signature: Signature | None = None
) -> Payload:
    """The payload of a run.

    Args:
        settings: The run's.
        js_key: The client's key, of REST in Seldon's protocol.
        signature: The model's; None for digits.

    Raises:
        SettingInvalid: The payload's file does not suit the model.
    """
    if signature is None:
        instances = payloads.digits(settings.number_decimals, settings.images)
        return SeldonPayload(instances, settings.rest_form, js_key)
    if settings.payload == RANDOM:
        decimals = None if settings.number_decimals == FULL else int(settings.number_decimals)
        rows = random_rows(signature, settings.data_size or 1, settings.seed, decimals)
    else:
        rows = read_rows(Path(settings.payload), signature)
    return OpenInferencePayload(
        settings.model_name, signature, rows, settings.images, protocol=settings.protocol
    )
