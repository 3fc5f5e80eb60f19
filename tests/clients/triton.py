"""Calls a model by NVIDIA's clients and prints what they returned as JSON.

Run in .venv-clients: python triton.py HTTP_ADDRESS GRPC_ADDRESS MODEL IMAGES.npy TOKEN
"""

import json
import sys

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

http_address, grpc_address, model, images_file, token = sys.argv[1:]
images = np.load(images_file)
headers = {"Authorization": f"Bearer {token}"} if token else {}
found: dict[str, object] = {}


def described(metadata: dict[str, list[dict[str, str]]]) -> list[list[object]]:
    tensors = [*metadata["inputs"], *metadata["outputs"]]
    return [[t["name"], t["datatype"], [int(size) for size in t["shape"]]] for t in tensors]


with triton_http.InferenceServerClient(http_address) as client:
    found["http health"] = [
        client.is_server_live(headers=headers),
        client.is_server_ready(headers=headers),
        client.is_model_ready(model, headers=headers),
    ]
    found["http server"] = client.get_server_metadata(headers=headers)["name"]
    metadata = client.get_model_metadata(model, headers=headers)
    found["http metadata"] = described(metadata)
    name = metadata["inputs"][0]["name"]
    result_name = metadata["outputs"][0]["name"]
    tensor = triton_http.InferInput(name, [1, images.shape[1]], "FP32")
    tensor.set_data_from_numpy(images[:1])
    try:
        client.infer("other", [tensor], headers=dict(headers))
    except InferenceServerException as error:
        found["http other"] = error.message()
    for count in (1, 64):
        for binary in (False, True):
            tensor = triton_http.InferInput(name, [count, images.shape[1]], "FP32")
            tensor.set_data_from_numpy(images[:count], binary_data=binary)
            output = triton_http.InferRequestedOutput(result_name, binary_data=binary)
            # A copy: the client writes the length of its JSON into the headers it is given.
            answer = client.infer(
                model, [tensor], outputs=[output], request_id="7", headers=dict(headers)
            )
            found[f"http {'binary' if binary else 'json'} {count}"] = answer.as_numpy(
                result_name
            ).tolist()
            assert answer.get_response()["id"] == "7"

with triton_grpc.InferenceServerClient(grpc_address) as client:
    headers = {key.lower(): value for key, value in headers.items()}
    found["grpc health"] = [
        client.is_server_live(headers=headers),
        client.is_server_ready(headers=headers),
        client.is_model_ready(model, headers=headers),
    ]
    found["grpc server"] = client.get_server_metadata(headers=headers).name
    found["grpc metadata"] = described(
        client.get_model_metadata(model, headers=headers, as_json=True)
    )
    tensor = triton_grpc.InferInput(name, [1, images.shape[1]], "FP32")
    tensor.set_data_from_numpy(images[:1])
    try:
        client.infer("other", [tensor], headers=headers)
    except InferenceServerException as error:
        found["grpc other"] = error.message()
    for count in (1, 64):
        tensor = triton_grpc.InferInput(name, [count, images.shape[1]], "FP32")
        tensor.set_data_from_numpy(images[:count])
        answer = client.infer(model, [tensor], request_id="7", headers=headers)
        found[f"grpc raw {count}"] = answer.as_numpy(result_name).tolist()
        # The client writes raw contents alone; its messages hold typed ones as well.
        request = triton_grpc.service_pb2.ModelInferRequest(model_name=model)
        item = request.inputs.add(name=name, datatype="FP32", shape=[count, images.shape[1]])
        item.contents.fp32_contents.extend(images[:count].ravel().tolist())
        reply = client._client_stub.ModelInfer(request, metadata=tuple(headers.items()))
        scores = np.array(reply.outputs[0].contents.fp32_contents, np.float32)
        found[f"grpc typed {count}"] = scores.reshape(list(reply.outputs[0].shape)).tolist()

json.dump(found, sys.stdout)
