"""The image `serving-rest` with ONNX Runtime, and model folders that it can and cannot serve."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from podman import Podman

from polling import eventually

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

INFER = """
import sys, urllib.request
url = "http://127.0.0.1:8500/v2/models/doubling/infer"
print(urllib.request.urlopen(url, sys.stdin.read().encode(), 10).read().decode())
"""


@pytest.fixture(scope="module")
def image(podman: Podman, bases: tuple[str, ...]) -> str:
    (built,) = podman.build(*bases, "--with-onnx", "serving-rest")
    return built


def doubling() -> bytes:
    rows = helper.make_tensor_value_info
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        "doubling",
        [rows("x", TensorProto.FLOAT, ["n", 2])],
        [rows("y", TensorProto.FLOAT, ["n", 2])],
        [two],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def a_folder(podman: Podman, name: str, content: bytes) -> str:
    """The option that mounts a folder with one file, which the container's user can read."""
    folder = podman.home / f"models-{Path(name).suffix[1:]}"
    folder.mkdir(mode=0o755)
    (folder / name).write_bytes(content)
    return f"--volume={folder}:/models:ro"


def test_a_lone_onnx_file_is_served(podman: Podman, image: str) -> None:
    assert image.endswith("-onnx")
    folder = a_folder(podman, "any.onnx", doubling())
    podman.run(*("--detach", "--name=with-onnx", "--env=MODEL_NAME=doubling", folder, image))
    x = np.array([[1, 2], [3, 4]], np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": x.ravel().tolist()}
    request = json.dumps({"inputs": [tensor]})
    command = ("exec", "--interactive", "with-onnx", "python", "-c", INFER)
    try:
        eventually(lambda: podman(*command, text=request, check=False).returncode == 0, within_s=60)
        response = json.loads(podman(*command, text=request).stdout)
    finally:
        podman("rm", "--force", "--time=0", "with-onnx")
    assert response["outputs"][0]["data"] == (2 * x).ravel().tolist()


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        (
            *("saved_model.pb", b""),
            "expected the package tensorflow-cpu; pip install -c constraints.txt "
            "'./serving-core[tensorflow]', or build the image with make images WITH_TENSORFLOW=1",
        ),
        (
            *("model.py", b"import sklearn"),
            "/models/model.py needs the module sklearn, which is not installed; pip install its "
            "package beside the server's, for an image as docs/containers.md shows",
        ),
    ],
)
def test_a_server_without_a_package_ends_with_the_next_step(
    podman: Podman, image: str, file: str, content: bytes, sentence: str
) -> None:
    ended = podman.run("--rm", a_folder(podman, file, content), image, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count(sentence) == 1
