"""A model folder: model.json, the files it names, and their checksums."""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import orjson

from serving_core.errors import ModelFolderInvalid
from serving_core.predictor import LOGITS, PROBABILITIES, ModelInfo
from serving_core.tensors import ANY, DATATYPES, Signature, TensorSpec

LITERT = "litert"
TENSORFLOW = "tensorflow"
ONNX = "onnx"
PYTHON = "python"

DEFAULT_SIGNATURE = "serving_default"  # of a SavedModel


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
    """A valid model folder; the checksums of the files of `info.engine` match.

    Attributes:
        path: The folder.
        model: The engine's model: a file, or the SavedModel's folder.
        info: Metadata; without model.json the signature is empty until the model is loaded.
        description: The content of model.json; empty without one.
    """

    path: Path
    model: Path
    info: ModelInfo
    description: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Changes with the model: sha256 of model.json, without one of all files, in hex."""
        return digest(self.path / "model.json" if self.description else self.path)

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
        folder: Holds model.json and the files it names, or a model alone.
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
        return _without_description(folder, engine, name)
    except (OSError, orjson.JSONDecodeError) as error:
        raise ModelFolderInvalid(f"{folder}/model.json cannot be read: {error}") from None

    files = _field(folder, description, "files", dict)
    chosen = _choose_engine(folder, files, engine or description.get("engine"))
    for file, expected in files.items():
        if file.startswith(ENGINES[chosen].needed):
            _verify(folder, file, expected)

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
        scores=_scores(folder, description),
    )
    return ModelFolder(folder, folder / ENGINES[chosen].model, info, description)


def _without_description(folder: Path, engine: str | None, name: str | None) -> ModelFolder:
    """A folder with nothing but a model."""
    found = find_models(folder)
    if engine is not None:
        found = {kind: model for kind, model in found.items() if kind == engine}
    if len(found) != 1:
        models = ", ".join(str(model) for model in found.values()) or "no model"
        raise ModelFolderInvalid(
            f"{folder} is not a model folder: it has no model.json, and {models}; "
            f"expected one SavedModel, .tflite, .onnx or model.py, or a model folder as "
            f"`seldon-cli model import SOURCE FOLDER` makes it"
        )
    ((kind, model),) = found.items()
    info = ModelInfo(name or folder.resolve().name, "1", kind, Signature((), ()))
    return ModelFolder(folder, model, info, {})


def find_models(folder: Path) -> dict[str, Path]:
    """The models in a folder without model.json, by engine; what model.py may use is none."""
    if (folder / "model.py").is_file():
        return {PYTHON: folder / "model.py"}
    found = {}
    for place in (folder, folder / "saved_model"):
        if (place / "saved_model.pb").is_file():
            found[TENSORFLOW] = place
    for engine, ending in ((LITERT, "tflite"), (ONNX, "onnx")):
        files = sorted(folder.glob(f"*.{ending}"))
        if len(files) == 1:
            found[engine] = files[0]
        elif files:
            raise ModelFolderInvalid(
                f"{folder} has {len(files)} .{ending} files, expected one or a model.json"
            )
    return found


def _scores(folder: Path, description: dict[str, Any]) -> str | None:
    scores = description.get("scores")
    if scores not in (None, LOGITS, PROBABILITIES):
        raise ModelFolderInvalid(
            f"{folder}/model.json: scores is {scores!r}, expected {LOGITS!r} or {PROBABILITIES!r}"
        )
    return scores


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that belong to a model, without caches and hidden ones."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(
            part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts
        )
    ]


def checksum(file: Path) -> str:
    """The sha256 of a file, in hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def digest(source: Path) -> str:
    """The sha256 of a file, or of the names and checksums of a folder's files, in hex."""
    if source.is_file():
        return checksum(source)
    listing = [f"{path.relative_to(source)} {checksum(path)}" for path in files_of(source)]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def _read_signature(folder: Path, description: dict[str, Any], classes: int) -> Signature:
    """The signature in model.json.

    A folder of the first format has `input` alone, the row of a classifier.
    """
    if "inputs" in description:
        signature = Signature(
            inputs=_read_specs(folder, description, "inputs"),
            outputs=_read_specs(folder, description, "outputs"),
            batched=_field(folder, description, "batched", bool),
        )
        for spec in (*signature.inputs, *signature.outputs) if signature.batched else ():
            if spec.shape[:1] != (ANY,):
                raise ModelFolderInvalid(
                    f"{folder}/model.json: {spec.name} has shape {list(spec.shape)}, expected -1 "
                    f'as its first size, the batch; or write "batched": false'
                )
        return signature
    if not classes:
        raise ModelFolderInvalid(f"{folder}/model.json: classes is not a list of names")
    source = _field(folder, description, "input", dict)
    shape = _field(folder, source, "shape", list)
    if len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
        raise ModelFolderInvalid(f"{folder}/model.json: input.shape is {shape}, expected [width]")
    return Signature(
        inputs=(_spec(folder, source, "input", "instances", "FP32", (ANY, shape[0])),),
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
        specs.append(_spec(folder, tensor, place, name, datatype, tuple(shape)))
    if not specs or len({spec.name for spec in specs}) != len(specs):
        raise ModelFolderInvalid(
            f"{folder}/model.json: {field} is empty or repeats a name, expected distinct tensors"
        )
    return tuple(specs)


def _spec(
    folder: Path,
    tensor: dict[str, Any],
    place: str,
    name: str,
    datatype: str,
    shape: tuple[int, ...],
) -> TensorSpec:
    """A tensor with the range that model.json declares for it."""
    limits = {
        field: _limits(folder, tensor[field], f"{place}.{field}")
        for field in ("range", "rescale")
        if tensor.get(field) is not None
    }
    if "rescale" in limits and "range" not in limits:
        raise ModelFolderInvalid(f"{folder}/model.json: {place}.rescale needs a range beside it")
    if limits and DATATYPES[datatype].kind not in "iuf":
        raise ModelFolderInvalid(
            f"{folder}/model.json: {place} has a range, expected none for {datatype}"
        )
    return TensorSpec(name, datatype, shape, **limits)


def _limits(folder: Path, value: object, place: str) -> tuple[float, float]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(type(limit) in (int, float) for limit in value)
        or not value[0] < value[1]
    ):
        raise ModelFolderInvalid(
            f"{folder}/model.json: {place} is {value!r:.80}, expected [low, high]"
        )
    return float(value[0]), float(value[1])


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


def _verify(folder: Path, file: str, expected: str) -> None:
    relative = PurePosixPath(file)
    if relative.is_absolute() or ".." in relative.parts:
        raise ModelFolderInvalid(f"{folder}/model.json: files names {file!r}, outside the folder")
    try:
        actual = checksum(folder / relative)
    except OSError as error:
        raise ModelFolderInvalid(f"{folder}/{file} cannot be read: {error.strerror}") from None
    if actual != expected:
        raise ModelFolderInvalid(
            f"{folder}/{file} fails its checksum: sha256 is {actual[:12]}…, "
            f"model.json has {str(expected)[:12]}…; copy the folder again"
        )
