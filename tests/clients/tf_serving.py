"""Calls a model by TensorFlow Serving's stubs and in its REST format; prints the results as JSON.

Run in .venv-clients: python tf_serving.py HTTP_ADDRESS GRPC_ADDRESS MODEL IMAGES.npy TOKEN
"""

import json
import sys
from typing import Any

import grpc
import numpy as np
import requests
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

http_address, grpc_address, model, images_file, token = sys.argv[1:]
images = np.load(images_file)
found: dict[str, object] = {}


def described(inputs: Any, outputs: Any) -> list[list[object]]:
    """The tensors of a signature, of JSON or of a message."""
    return [
        [
            name,
            types_pb2.DataType.Name(info.dtype),
            [dimension.size for dimension in info.tensor_shape.dim],
        ]
        for tensors in (inputs, outputs)
        for name, info in tensors.items()
    ]


def predict_request(
    model: str, name: str, values: np.ndarray, packed: bool
) -> predict_pb2.PredictRequest:
    """A request in the one or the other form of a tensor that TensorFlow makes."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs[name]
    tensor.dtype = types_pb2.DT_FLOAT
    for size in values.shape:
        tensor.tensor_shape.dim.add(size=size)
    if packed:
        tensor.tensor_content = values.astype("<f4").tobytes()
    else:
        tensor.float_val.extend(values.ravel().tolist())
    return request


with grpc.insecure_channel(grpc_address) as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    metadata = (("authorization", f"Bearer {token}"),)
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = model
    signatures = get_model_metadata_pb2.SignatureDefMap()
    described_model = stub.GetModelMetadata(asked, metadata=metadata, timeout=10)
    assert described_model.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    found["grpc metadata"] = described(signature.inputs, signature.outputs)
    found["grpc method"] = signature.method_name
    (name,), (result_name,) = signature.inputs, signature.outputs
    for count in (1, 64):
        for packed in (True, False):
            request = predict_request(model, name, images[:count], packed)
            reply = stub.Predict(request, metadata=metadata, timeout=10)
            assert reply.model_spec.name == model
            scores = reply.outputs[result_name]
            found[f"grpc {'content' if packed else 'values'} {count}"] = np.reshape(
                scores.float_val, [dimension.size for dimension in scores.tensor_shape.dim]
            ).tolist()
    asked.model_spec.name = "other"
    for case, call, wrong in (
        ("metadata", stub.GetModelMetadata, asked),
        ("predict", stub.Predict, predict_request("other", name, images[:1], packed=True)),
    ):
        try:
            call(wrong, metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            found[f"grpc other {case}"] = [error.code().name, error.details()]

with requests.Session() as session:
    session.headers["Authorization"] = f"Bearer {token}"
    url = f"http://{http_address}/v1/models"
    (version,) = session.get(f"{url}/{model}", timeout=10).json()["model_version_status"]
    found["rest state"] = [version["version"], version["state"]]
    answer = session.get(f"{url}/{model}/metadata", timeout=10).json()
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    found["rest metadata"] = [
        [name, info["dtype"], [int(dimension["size"]) for dimension in info["tensor_shape"]["dim"]]]
        for tensors in (signature["inputs"], signature["outputs"])
        for name, info in tensors.items()
    ]
    for count in (1, 64):
        rows = images[:count].tolist()
        for form, body in (
            ("row", {"instances": rows}),
            ("named row", {"instances": [{name: row} for row in rows]}),
            ("column", {"inputs": {name: rows}}),
            ("only column", {"inputs": rows, "signature_name": "serving_default"}),
        ):
            answer = session.post(f"{url}/{model}:predict", json=body, timeout=10).json()
            found[f"rest {form} {count}"] = answer["predictions" if "row" in form else "outputs"]
    for case, reply in (
        ("metadata", session.get(f"{url}/other/metadata", timeout=10)),
        ("predict", session.post(f"{url}/other:predict", json={"instances": []}, timeout=10)),
    ):
        found[f"rest other {case}"] = [reply.status_code, reply.json()["error"]]

json.dump(found, sys.stdout)
