"""NVIDIA's Triton with its Python backend: `triton_server.py HTTP_PORT GRPC_PORT [OPTION…]`.

The wheel `nvidia-pytriton` holds the server, the backend and a stub per Python version, in places
where the server does not look. This puts them together below the environment and becomes the
server. BATCH is how many requests a batch has at most; Triton never waits for more.
"""

import os
import sys
import sysconfig
from pathlib import Path

from model import CLASSES, NAME, PIXELS

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
HERE = Path(__file__).parent.absolute()
CONFIG = f"""\
backend: "python"
max_batch_size: %d
input [ {{ name: "instances" data_type: TYPE_FP32 dims: [ {PIXELS} ] }} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ {CLASSES} ] }} ]
dynamic_batching {{ }}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""
# Triton does not pass PYTHONPATH on.
MODEL = """\
import sys

sys.path[:0] = %r

from triton_model import TritonPythonModel
"""


def prepare(packages: Path, folder: Path, batch: int) -> list[str]:
    """Write the model repository and the backend's folder.

    Args:
        packages: The site-packages with nvidia-pytriton.
        folder: The parent of both.
        batch: The maximum batch size.

    Returns:
        The command of the server, without its ports.
    """
    wheel = packages / "pytriton/tritonserver"
    parts = [
        *(wheel / "backends/python").glob("*.*"),
        wheel / "python_backend_stubs" / VERSION / "triton_python_backend_stub",
    ]
    backend, model = folder / "backends/python", folder / f"models-{batch}" / NAME
    backend.mkdir(parents=True, exist_ok=True)
    for part in parts:
        (backend / part.name).unlink(missing_ok=True)
        (backend / part.name).symlink_to(part)
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "1/model.py").write_text(MODEL % [str(HERE), str(packages)], encoding="utf-8")
    (model / "config.pbtxt").write_text(CONFIG % batch, encoding="utf-8")
    return [
        str(wheel / "bin/tritonserver"),
        f"--model-repository={model.parent}",
        f"--backend-directory={backend.parent}",
    ]


def main() -> None:
    packages = Path(sysconfig.get_path("purelib"))
    command = prepare(packages, Path(sys.prefix) / "triton", int(os.environ["BATCH"]))
    http_port, grpc_port, *options = sys.argv[1:]
    libraries = (packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    # The stub is a Python interpreter, which finds neither its library nor its modules.
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PYTHONHOME": sys.base_prefix,
    }
    addresses = ("--http-address=127.0.0.1", "--grpc-address=127.0.0.1")
    ports = (f"--http-port={http_port}", f"--grpc-port={grpc_port}")
    words = [*command, *addresses, *ports, *options]
    os.execve(command[0], words, environment)  # noqa: S606  # bench measures and stops this process


if __name__ == "__main__":
    main()
