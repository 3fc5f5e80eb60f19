"""Calls a model by Seldon Core's client and prints what it returned as JSON.

Run in .venv-seldon-core: python FILE HTTP_ADDRESS GRPC_ADDRESS MODEL IMAGES.npy TOKEN
"""

import json
import sys

import numpy as np
from seldon_core.seldon_client import SeldonClient
from seldon_core.utils import get_data_from_proto

http_address, grpc_address, model, images_file, token = sys.argv[1:]
images = np.load(images_file)
found: dict[str, object] = {}

for transport, address in (("rest", http_address), ("grpc", grpc_address)):
    client = SeldonClient(
        gateway="istio",
        transport=transport,
        gateway_endpoint=address,
        deployment_name=model,
        client_return_type="proto",
    )
    headers = {"authorization": f"Bearer {token}"}
    for form in ("tensor", "ndarray"):
        for count in (1, 64):
            answer = client.predict(
                data=images[:count],
                payload_type=form,
                names=[f"x{index}" for index in range(images.shape[1])],
                # Paths of Seldon Core's ingress with a namespace and without.
                namespace="models" if count == 1 else None,
                headers=headers,
            )
            assert answer.success, answer.msg
            assert answer.response.data.WhichOneof("data_oneof") == form
            found[f"{transport} {form} {count}"] = get_data_from_proto(answer.response).tolist()
            found[f"{transport} classes"] = list(answer.response.data.names)
            found[f"{transport} model"] = dict(answer.response.meta.requestPath)
    for case, answer in (
        ("no ingress", client.predict(data=images[:1], gateway_prefix="", headers=headers)),
        ("wrong shape", client.predict(data=images[:1, :3], headers=headers)),
        ("other", client.predict(data=images[:1], deployment_name="other", headers=headers)),
    ):
        # Over gRPC the message is the call's error.
        status = answer.response.status.info if answer.response else answer.msg
        found[f"{transport} {case}"] = [answer.success, status]

json.dump(found, sys.stdout)
