import importlib.util
from pathlib import Path

PROTOS = Path(__file__).parents[1]
GENERATED = [
    f"{name}_pb2{suffix}"
    for name in ("seldon", "open_inference", "seldon_core", "tensorflow_serving")
    for suffix in (".py", ".pyi", "_grpc.py", "_grpc.pyi")
]


def test_committed_code_is_what_the_proto_generates(tmp_path: Path) -> None:
    specification = importlib.util.spec_from_file_location("generate", PROTOS / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)

    generate.generate(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(GENERATED)
    for name in GENERATED:
        committed = (PROTOS / "src" / name).read_text()
        assert (tmp_path / name).read_text() == committed, f"{name} differs: run make protos"
