"""A model folder: model.json, the files it names, and their checksums."""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import orjson

from serving_core.errors import ModelFolderInvalid
from serving_core.predictor import ModelInfo
from serving_core.tensors import ANY, DATATYPES, Signature, TensorSpec

LITERT = "litert"
TENSORFLOW = "tensorflow"
ONNX = "onnx"
PYTHON = "python"


class EngineFiles(NamedTuple):
    """The files that an engine needs.

    Attributes:
        model: The file, or the folder with a slash at its end, whose presence selects the engine.
        needed: Prefix of the files that the engine reads: "" for all.
    """

    model: str
    needed: str


# A folder with files of several engines is served by the first.
ENGINES = {
    LITERT: EngineFiles("model.tflite", "model.tflite"),
    TENSORFLOW: EngineFiles("saved_model/", "saved_model/"),
    ONNX: EngineFiles("model.onnx", ""),  # weights may be in files beside it
    PYTHON: EngineFiles("model.py", ""),
}


@dataclass(frozen=True)
class ModelFolder:
    """A valid model folder; the checksums of the files of `info.engine` match."""

    path: Path
    info: ModelInfo
    description: dict[str, Any]

    @property
    def model(self) -> Path:
        """The engine's model: a file, or the SavedModel's folder."""
        return self.path / ENGINES[self.info.engine].model

    @property
    def signature_name(self) -> str | None:
        """The SavedModel's signature; None for serving_default."""
        name = self.description.get("signature")
        return name if isinstance(name, str) else None


def read_model_folder(
    folder: Path, engine: str | None = None, name: str | None = None
) -> ModelFolder:
    """Read model.json, select the engine and verify the checksums of its files.

    It loads no engine, so a master process can call it.

    Args:
        folder: Holds model.json and the files it names.
        engine: A key of ENGINES; by default model.json's, or the first whose model is there.
        name: The model's name in responses; by default the name in model.json.

    Raises:
        ModelFolderInvalid: Names the folder, the file or field, and what was expected.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelFolderInvalid(f"model folder {folder} does not exist")
    try:
        description = orjson.loads((folder / "model.json").read_bytes())
    except FileNotFoundError:
        raise ModelFolderInvalid(f"{folder} is not a model folder: it has no model.json") from None
    except (OSError, orjson.JSONDecodeError) as error:
        raise ModelFolderInvalid(f"{folder}/model.json cannot be read: {error}") from None

    files = _field(folder, description, "files", dict)
    chosen = _choose_engine(folder, files, engine or description.get("engine"))
    for file, checksum in files.items():
        if file.startswith(ENGINES[chosen].needed):
            _verify(folder, file, checksum)

    # A folder of the first format is a classifier's; `inputs` came with the second.
    classes = description.get("classes", [] if "inputs" in description else None)
    if not isinstance(classes, list):
        raise ModelFolderInvalid(f"{folder}/model.json: classes is missing or no list")
    if not all(isinstance(label, str) for label in classes):
        raise ModelFolderInvalid(f"{folder}/model.json: classes is not a list of names")
    info = ModelInfo(
        name=name or _field(folder, description, "name", str),
        version=_field(folder, description, "version", str),
        engine=chosen,
        signature=_read_signature(folder, description, len(classes)),
        classes=tuple(classes),
    )
    return ModelFolder(path=folder, info=info, description=description)


def _read_signature(folder: Path, description: dict[str, Any], classes: int) -> Signature:
    """The signature in model.json.

    A folder of the first format has `input` alone, the row of a classifier.
    """
    if "inputs" in description:
        return Signature(
            inputs=_read_specs(folder, description, "inputs"),
            outputs=_read_specs(folder, description, "outputs"),
            batched=_field(folder, description, "batched", bool),
        )
    if not classes:
        raise ModelFolderInvalid(f"{folder}/model.json: classes is not a list of names")
    shape = _field(folder, _field(folder, description, "input", dict), "shape", list)
    if len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
        raise ModelFolderInvalid(f"{folder}/model.json: input.shape is {shape}, expected [width]")
    return Signature(
        inputs=(TensorSpec("instances", "FP32", (ANY, shape[0])),),
        outputs=(TensorSpec("probabilities", "FP32", (ANY, classes)),),
    )


def _read_specs(folder: Path, description: dict[str, Any], field: str) -> tuple[TensorSpec, ...]:
    specs = []
    for number, tensor in enumerate(_field(folder, description, field, list)):
        place = f"{field}[{number}]"
        name = _field(folder, tensor, "name", str, f"{place}.")
        datatype = _field(folder, tensor, "datatype", str, f"{place}.")
        shape = _field(folder, tensor, "shape", list, f"{place}.")
        if datatype not in DATATYPES:
            raise ModelFolderInvalid(
                f"{folder}/model.json: {place}.datatype is {datatype!r}, "
                f"expected one of {', '.join(DATATYPES)}"
            )
        if not all(type(size) is int and (size > 0 or size == ANY) for size in shape):
            raise ModelFolderInvalid(
                f"{folder}/model.json: {place}.shape is {shape}, expected sizes, or -1 for any"
            )
        specs.append(TensorSpec(name, datatype, tuple(shape)))
    if not specs or len({spec.name for spec in specs}) != len(specs):
        raise ModelFolderInvalid(
            f"{folder}/model.json: {field} is empty or repeats a name, expected distinct tensors"
        )
    return tuple(specs)


def _field(folder: Path, document: object, field: str, kind: type, prefix: str = "") -> Any:
    value = document.get(field) if isinstance(document, dict) else None
    if not isinstance(value, kind):
        raise ModelFolderInvalid(
            f"{folder}/model.json: {prefix}{field} is missing or no {kind.__name__}"
        )
    return value


def _choose_engine(folder: Path, files: dict[str, str], engine: str | None) -> str:
    if engine is not None and (not isinstance(engine, str) or engine not in ENGINES):
        raise ModelFolderInvalid(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}")
    present = [
        name
        for name, (model, _) in ENGINES.items()
        if model in files or (model.endswith("/") and any(file.startswith(model) for file in files))
    ]
    if not present:
        models = ", ".join(files.model for files in ENGINES.values())
        raise ModelFolderInvalid(f"{folder}/model.json names no model, expected one of {models}")
    if engine is not None and engine not in present:
        raise ModelFolderInvalid(f"{folder}/model.json names no file for the engine {engine}")
    return engine or present[0]


def _verify(folder: Path, file: str, checksum: str) -> None:
    relative = PurePosixPath(file)
    if relative.is_absolute() or ".." in relative.parts:
        raise ModelFolderInvalid(f"{folder}/model.json: files names {file!r}, outside the folder")
    try:
        with (folder / relative).open("rb") as content:
            actual = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ModelFolderInvalid(f"{folder}/{file} cannot be read: {error.strerror}") from None
    if actual != checksum:
        raise ModelFolderInvalid(
            f"{folder}/{file} fails its checksum: sha256 is {actual[:12]}…, "
            f"model.json has {str(checksum)[:12]}…; copy the folder again"
        )
