"""Predict of seldon_core.proto."""

from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from seldon_core_pb2 import DefaultData, Meta, SeldonMessage, Status, Tensor
from serving_core.batching import Computed
from serving_core.errors import InvalidInput
from serving_core.exchange import InferenceRequest, Served
from serving_core.protocols.grpc import GrpcReply, refuse
from serving_core.protocols.json_tensors import array_of
from serving_core.protocols.open_inference.common import model_name
from serving_core.protocols.seldon_core.common import choose_puid, inputs_of, names, only_tensors
from serving_core.tensors import TensorSpec

__all__ = ["decode", "encode", "refuse"]

_TYPE = SeldonMessage.DESCRIPTOR.full_name


def decode(message: bytes, served: Served) -> InferenceRequest:
    """Decode a SeldonMessage with a tensor or an ndarray.

    Raises:
        InvalidInput: Invalid protobuf, or data that differs from the model's input.
    """
    try:
        request = SeldonMessage.FromString(message)
    except DecodeError:
        raise InvalidInput(
            "the request is no seldon.protos.SeldonMessage: broken protobuf"
        ) from None
    source, _ = only_tensors(served.model)
    if request.WhichOneof("data_oneof") != "data":
        raise InvalidInput(
            f"the request has {request.WhichOneof('data_oneof') or 'no data'}, expected data"
        )
    kind = request.data.WhichOneof("data_oneof")
    inputs = inputs_of(_values(request.data, kind, source), source, f"data.{kind}")
    rows = served.model.signature.check(inputs)
    return InferenceRequest(inputs, rows, choose_puid(request.meta.puid), kind)


def _values(data: DefaultData, kind: str | None, source: TensorSpec) -> NDArray[Any]:
    if kind == "ndarray":
        try:
            rows = MessageToDict(data.ndarray)
        except (ValueError, SerializeToJsonError):  # the JSON form of a ListValue has no NaN
            raise InvalidInput("data.ndarray has a value that is not finite or unset") from None
        return array_of(rows, "FP64", "data.ndarray")  # numbers of a ListValue are doubles
    if kind != "tensor":
        raise InvalidInput("data is empty, expected tensor or ndarray")
    values = np.array(data.tensor.values, np.float64)
    shape = list(data.tensor.shape)
    if any(size < 0 for size in shape):
        raise InvalidInput(f"data.tensor.shape is {shape[:32]}, expected sizes from 0")
    try:
        return values.reshape(shape)
    except ValueError:
        raise InvalidInput(
            f"data.tensor has {values.size} values, expected as many as its shape {shape[:32]} has"
        ) from None


def encode(
    message: bytes, request: InferenceRequest, computed: Computed, served: Served
) -> GrpcReply:
    """Encode a SeldonMessage in the form of the request."""
    _, result = only_tensors(served.model)
    output = computed.outputs[result.name]
    data = DefaultData(names=names(served.model, output))
    if request.options == "ndarray":
        data.ndarray.extend(output.tolist())
    else:
        data.tensor.CopyFrom(Tensor(shape=output.shape, values=output.ravel().tolist()))
    meta = Meta(puid=request.id, requestPath={model_name(served): served.model.version})
    status = Status(status=Status.SUCCESS)
    return GrpcReply(SeldonMessage(status=status, meta=meta, data=data).SerializeToString())
