"""Generate the Python code of the .proto files: `python protos/generate.py`, or `make protos`."""

import sys
import sysconfig
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

HERE = Path(__file__).parent
NAMES = ("seldon", "open_inference", "seldon_core", "tensorflow_serving")
SOURCES = tuple(HERE / f"{name}.proto" for name in NAMES)
COMMITTED = HERE / "src"


def generate(target: Path) -> None:
    """Write the _pb2 and _pb2_grpc modules with their stubs into the folder `target`.

    Raises:
        RuntimeError: protoc failed; its message is on stderr.
    """
    scripts = Path(sysconfig.get_path("scripts"))
    arguments = [
        "protoc",
        f"--proto_path={HERE}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        *map(str, SOURCES),
    ]
    status = protoc.main(arguments)
    if status != 0:
        raise RuntimeError(f"protoc exited with status {status}")


if __name__ == "__main__":
    try:
        generate(COMMITTED)
    except RuntimeError as error:
        sys.exit(str(error))
