"""Generate the Python code of seldon.proto: `python protos/generate.py`, or `make protos`."""

import sys
import sysconfig
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

HERE = Path(__file__).parent
SOURCE = HERE / "seldon.proto"
COMMITTED = HERE / "src"


def generate(target: Path) -> None:
    """Write seldon_pb2 and seldon_pb2_grpc, each with its .pyi, into the folder `target`.

    Raises:
        RuntimeError: protoc refused; it has said why on stderr.
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
        str(SOURCE),
    ]
    status = protoc.main(arguments)
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status}")


if __name__ == "__main__":
    try:
        generate(COMMITTED)
    except RuntimeError as error:
        sys.exit(str(error))
