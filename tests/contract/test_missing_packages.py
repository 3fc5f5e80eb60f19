"""A server whose engine lacks its package ends its start in one line with the next step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "models" / "deep_mnist" / "1"
INSTALL = "pip install -c constraints.txt"
MODEL = """
{import}
class Model:
    inputs = {{"x": ("FP32", [-1])}}

    def load(self, folder):
        {load}

    def predict(self, inputs):
        {predict}
"""
PLACES = ("import", "load", "predict")


def without(package: str, folder: Path) -> str:
    """A PYTHONPATH on which no process can import `package`."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def start_error(server: str, **variables: object) -> str:
    """The only line of a failed start that is not an entry of the log."""
    ports = {"REST_PORT": 0, "GRPC_PORT": 0, "GRPC_METRICS_PORT": 0}
    given = {**ports, "REST_WORKERS": 3, "GRPC_WORKERS": 3}
    end = subprocess.run(
        [sys.executable, "-m", f"serving_{server}"],
        env={**os.environ, **{name: str(value) for name, value in (given | variables).items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert end.returncode == 1
    assert "Traceback" not in end.stderr
    (line,) = (line for line in end.stderr.splitlines() if line.startswith(f"serving-{server}: "))
    return line


@pytest.mark.parametrize("server", ["rest", "grpc"])
@pytest.mark.parametrize(
    ("engine", "library", "package", "remedy"),
    [
        ("litert", "ai_edge_litert", "ai-edge-litert", f"{INSTALL} ./serving-core"),
        (
            *("tensorflow", "tensorflow", "tensorflow-cpu"),
            f"{INSTALL} './serving-core[tensorflow]', or build the image with make images "
            "WITH_TENSORFLOW=1",
        ),
        (
            *("onnx", "onnxruntime", "onnxruntime"),
            f"{INSTALL} './serving-core[onnx]', or build the image with make images WITH_ONNX=1",
        ),
    ],
)
def test_an_engine_names_its_package_and_how_to_install_it(
    server: str, engine: str, library: str, package: str, remedy: str, tmp_path: Path
) -> None:
    folder = RELEASED
    if engine == "onnx":
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "any.onnx").touch()
    path = without(library, tmp_path / "path")
    line = start_error(server, MODEL_FOLDER=folder, MODEL_ENGINE=engine, PYTHONPATH=path)
    assert line.startswith(f"serving-{server}: the engine {engine} cannot be imported (")
    assert line.endswith(f"), expected the package {package}; {remedy}")


@pytest.mark.parametrize("server", ["rest", "grpc"])
@pytest.mark.parametrize("place", PLACES)
def test_a_python_model_names_the_module_that_it_lacks(
    server: str, place: str, tmp_path: Path
) -> None:
    code = {**dict.fromkeys(PLACES, "pass"), place: "import no_such_package"}
    (tmp_path / "model.py").write_text(MODEL.format(**code))
    line = start_error(server, MODEL_FOLDER=tmp_path)
    assert "model.py needs the module no_such_package, which is not installed; pip install" in line
