"""The requests of any model in the Open Inference Protocol, packed before the run."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from loadtest.answers import InvalidResponse
from loadtest.datasets import Rows
from loadtest.errors import SettingInvalid
from loadtest.payloads import OPEN_INFERENCE, Template
from open_inference_pb2 import ModelInferRequest, ModelInferResponse
from serving_core.protocols.open_inference.client import json_request, raw_request
from serving_core.tensors import Signature, fits

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MAX_PACKED_BYTES = 1 << 30
_BEFORE_ID = b'{"id":"'


class Output(NamedTuple):
    """An output of a response.

    Attributes:
        name: Its name.
        shape: Its shape.
        elements: In row-major order; None of raw strings, which are not decoded.
    """

    name: str
    shape: tuple[int, ...]
    elements: NDArray[Any] | None


class OpenInferencePayload:
    """Inference requests for one model; see payloads.Payload."""

    dialect = OPEN_INFERENCE
    method = MODEL_INFER
    needs_token = True
    reply = staticmethod(ModelInferResponse.FromString)

    def __init__(
        self, model: str, signature: Signature, rows: Rows, images: int, *, protocol: str
    ) -> None:
        """Pack the requests.

        Args:
            model: The name in requests.
            signature: The model's.
            rows: The inputs; request i has the rows i, i + 1, …
            images: Rows per request.
            protocol: `rest` or `grpc`.

        Raises:
            SettingInvalid: The rows cannot be sent this way.
        """
        self.labels = rows.labels
        self.images = images
        self._signature = signature
        self._target = f"/v2/models/{quote(model, safe='')}/infer"
        self._scores = None if rows.labels is None else _scores(signature, rows.labels)
        if images > 1 and not signature.batched:
            raise SettingInvalid(f"--images is {images}, expected 1: model {model} has no batch")
        self._packed: list[bytes] = []
        total = 0
        for index in range(len(rows)):
            inputs = _request(rows, index, images, batched=signature.batched)
            if protocol == "grpc":
                self._packed.append(raw_request(model, inputs).SerializeToString())
            else:
                self._packed.append(_json(inputs))
            total += len(self._packed[-1])
            if total > MAX_PACKED_BYTES:
                raise SettingInvalid(
                    f"the packed requests of the payload's {len(rows)} rows have over "
                    f"{MAX_PACKED_BYTES >> 30} GiB, expected less; use fewer rows"
                )

    def __len__(self) -> int:
        return len(self._packed)

    def template(self, instance: int) -> Template:
        return Template("POST", self._target, self._packed[instance], len(_BEFORE_ID))

    def message(self, instance: int, puid: str) -> bytes:
        """See wire.with_puid: two concatenated messages are one."""
        return ModelInferRequest(id=puid).SerializeToString() + self._packed[instance]

    def judge_document(self, status: int, document: Any, puid: str) -> tuple[int, ...] | None:
        if status != 200:
            error = document.get("error") if isinstance(document, dict) else None
            raise InvalidResponse(f"HTTP status {status}" + (f": {error}" if error else ""))
        try:
            outputs = [
                Output(one["name"], tuple(one["shape"]), np.asarray(one["data"]).ravel())
                for one in document["outputs"]
            ]
            identifier = document.get("id")
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise InvalidResponse("the response has an unexpected shape") from None
        return self._judge(identifier, outputs, puid)

    def judge_reply(self, reply: ModelInferResponse, puid: str) -> tuple[int, ...] | None:
        specs, raws = self._signature.outputs, reply.raw_output_contents
        if not len(specs) == len(reply.outputs) == len(raws):
            raise InvalidResponse(f"{len(raws)} raw outputs, expected {len(specs)}")
        outputs = []
        for spec, output, raw in zip(specs, reply.outputs, raws, strict=True):
            elements = None
            if spec.dtype.kind != "O":
                if len(raw) % spec.dtype.itemsize:
                    raise InvalidResponse(f"output {output.name} has {len(raw)} bytes")
                elements = np.frombuffer(raw, spec.dtype)
            outputs.append(Output(output.name, tuple(output.shape), elements))
        return self._judge(reply.id, outputs, puid)

    def _judge(
        self, identifier: object, outputs: list[Output], puid: str
    ) -> tuple[int, ...] | None:
        specs = self._signature.outputs
        names = tuple(output.name for output in outputs)
        if names != self._signature.output_names:
            raise InvalidResponse(f"the outputs are {', '.join(map(str, names))}")
        predicted = None
        for spec, (name, shape, elements) in zip(specs, outputs, strict=True):
            expected = (self.images, *spec.shape[1:]) if self._signature.batched else spec.shape
            if not fits(shape, expected):
                raise InvalidResponse(f"output {name} has shape {list(shape)}")
            if elements is None:
                continue
            if elements.size != prod(shape):
                raise InvalidResponse(f"output {name} has {elements.size} elements")
            if spec.dtype.kind == "f" and not (
                elements.dtype.kind in "iuf" and np.isfinite(elements).all()
            ):
                raise InvalidResponse(f"output {name} has a value that is no finite number")
            if name == self._scores:
                rows = elements.reshape(self.images, -1)
                predicted = tuple(rows.argmax(axis=1).tolist())
        if identifier != puid:
            raise InvalidResponse("the id does not match the request")
        return predicted


def _request(rows: Rows, index: int, images: int, *, batched: bool) -> dict[str, NDArray[Any]]:
    if not batched:
        return {
            # An array, also of a scalar.
            name: column[index, ...] if isinstance(column, np.ndarray) else column[index]
            for name, column in rows.inputs.items()
        }
    places = [(index + place) % len(rows) for place in range(images)]
    try:
        return {
            name: column[places]
            if isinstance(column, np.ndarray)
            else np.stack([column[place] for place in places])
            for name, column in rows.inputs.items()
        }
    except ValueError:
        raise SettingInvalid(
            f"--images is {images}, expected 1: the rows of the payload differ in shape"
        ) from None


def _json(inputs: dict[str, NDArray[Any]]) -> bytes:
    try:
        return _BEFORE_ID + b'",' + json_request(inputs)[1:]
    except UnicodeDecodeError as error:
        raise SettingInvalid(
            f"the payload has a string that is not UTF-8, which JSON cannot hold ({error.reason}); "
            "use --test-type grpc-predict"
        ) from None


def _scores(signature: Signature, labels: Iterable[int]) -> str:
    """The output that scores the classes."""
    found = [
        spec
        for spec in signature.outputs
        if signature.batched and spec.dtype.kind == "f" and len(spec.shape) == 2
    ]
    if len(found) != 1:
        has = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in signature.outputs)
        raise SettingInvalid(
            f"the payload has labels and the model the outputs {has}, expected one output of "
            "class scores, shape [-1, classes]; remove the labels"
        )
    (spec,) = found
    classes = spec.shape[1]
    wrong = next((one for one in labels if one < 0 or 0 <= classes <= one), None)
    if wrong is not None:
        expected = f"0 to {classes - 1}" if classes > 0 else "0 or more"
        raise SettingInvalid(
            f"a label of the payload is {wrong}, expected {expected}, the classes of "
            f"output {spec.name}"
        )
    return spec.name
