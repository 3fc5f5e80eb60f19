import json
import shutil
from pathlib import Path

import pytest

from serving_core import ModelFolderInvalid, load_predictor, read_model_folder

RELEASED = Path(__file__).parents[2] / "models" / "deep_mnist" / "1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RELEASED, tmp_path / "model"))


def edit(folder: Path, **fields: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_released_folder_is_sound_for_both_engines() -> None:
    info = read_model_folder(RELEASED).info
    assert (info.name, info.version, info.engine) == ("deep_mnist", "1", "litert")
    assert info.classifier is not None
    assert (info.classifier.features, info.classifier.row_shape) == (784, (784,))
    assert info.classes == tuple("0123456789")
    assert read_model_folder(RELEASED, "tensorflow").info.engine == "tensorflow"


def test_a_name_of_the_callers_replaces_the_models() -> None:
    assert read_model_folder(RELEASED, name="tensorflow-deep-mnist").info.name == (
        "tensorflow-deep-mnist"
    )


def test_a_changed_byte_fails_the_checksum(folder: Path) -> None:
    content = bytearray((folder / "model.tflite").read_bytes())
    content[-1] ^= 1
    (folder / "model.tflite").write_bytes(content)
    with pytest.raises(ModelFolderInvalid, match=r"model\.tflite fails its checksum"):
        load_predictor(folder)


def test_a_truncated_file_fails_the_checksum(folder: Path) -> None:
    content = (folder / "model.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFolderInvalid, match="fails its checksum"):
        load_predictor(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "saved_model" / "saved_model.pb").unlink()
    assert read_model_folder(folder).info.engine == "litert"
    with pytest.raises(ModelFolderInvalid, match=r"saved_model\.pb cannot be read"):
        read_model_folder(folder, "tensorflow")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderInvalid, match="nowhere does not exist"):
        read_model_folder(tmp_path / "nowhere")


def test_a_folder_without_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderInvalid, match=r"no model\.json"):
        read_model_folder(tmp_path)


def test_broken_json_is_refused(folder: Path) -> None:
    (folder / "model.json").write_text("{")
    with pytest.raises(ModelFolderInvalid, match=r"model\.json cannot be read"):
        read_model_folder(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": "0123456789"}, "classes is missing or no list"),
        ({"classes": []}, "classes is not a list of names"),
        ({"input": {}}, "shape is missing"),
        ({"input": {"shape": [28, 28]}}, "input.shape is"),
        ({"name": None}, "name is missing"),
        ({"files": {}}, "names no model"),
        ({"files": {"model.tflite/../../x": "0"}}, "names no model"),
        ({"files": {"saved_model/../../x": "0"}}, "outside the folder"),
    ],
)
def test_a_wrong_field_is_named(folder: Path, fields: dict[str, object], message: str) -> None:
    edit(folder, **fields)
    with pytest.raises(ModelFolderInvalid, match=message):
        read_model_folder(folder)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ModelFolderInvalid, match="expected one of litert, tensorflow"):
        read_model_folder(RELEASED, "caffe")


def test_a_file_that_is_no_model_is_refused(folder: Path) -> None:
    import hashlib

    (folder / "model.tflite").write_bytes(b"not a flatbuffer at all, but with the right checksum")
    checksum = hashlib.sha256((folder / "model.tflite").read_bytes()).hexdigest()
    edit(folder, files={"model.tflite": checksum})
    with pytest.raises(ModelFolderInvalid, match="LiteRT cannot load"):
        load_predictor(folder)
