"""`seldon-cli model import`: make a model folder from a model in any of several formats.

The model runs in a process of its own (trial.py): whatever its libraries load, print or break stays
there.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serving_core.errors import ModelFolderInvalid
from serving_core.model_folder import (
    ENGINES,
    LITERT,
    ONNX,
    PYTHON,
    TENSORFLOW,
    digest,
    files_of,
    find_models,
    read_model_folder,
)

TRIAL_TIMEOUT_S = 600.0

KERAS = ("keras", "h5")
_ENGINE_OF_FILE = {"tflite": LITERT, "onnx": ONNX, "py": PYTHON} | dict.fromkeys(KERAS, TENSORFLOW)
FORMATS = "a SavedModel or model.py folder, .keras, .h5, .tflite, .onnx or .py"


@dataclass(frozen=True)
class ImportOptions:
    """What the caller says about a model.

    Attributes:
        name: Its name in responses; by default that of FOLDER.
        version: Its version.
        signature: One of several signatures.
        inputs: Declared inputs: name, datatype and shape.
        outputs: Names of the outputs to serve; all by default.
        ranges: Range of values by input.
        rescale: Range of the values in requests by input, rescaled to `ranges`.
        classes: Names of the classes of a classifier.
        scores: What a classifier's output has; None for probabilities that sum to 1.
    """

    name: str | None = None
    version: str = "1"
    signature: str | None = None
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    outputs: tuple[str, ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    rescale: dict[str, tuple[float, float]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    scores: str | None = None


@dataclass(frozen=True)
class Imported:
    """A model folder and how the model did.

    Attributes:
        description: The content of model.json.
        trial: What trial.py measured; None if the folder had been imported before.
    """

    description: dict[str, Any]
    trial: dict[str, Any] | None


def import_model(source: Path, folder: Path, options: ImportOptions) -> Imported:
    """Make a model folder; nothing is left of a failed import.

    Args:
        source: A file, or a folder.
        folder: Must not exist, or be empty, or come from the same import.
        options: What the model does not tell itself.

    Raises:
        ModelFolderInvalid: The model cannot be served, with the reason; or the folder exists.
    """
    engine, model = _recognize(source)
    if folder.resolve().is_relative_to(source.resolve()):
        raise ModelFolderInvalid(f"{folder} is within {source}, expected a folder outside it")
    origin = {
        "source": source.resolve().name,
        "sha256": digest(source),
        "options": json.loads(json.dumps(asdict(options))),
    }
    if _exists(folder):
        return _imported_before(folder, origin)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        _copy(engine, source, model, staging)
        outcome = _try(staging, source, engine, model, origin, options.name or folder.name, options)
        try:
            staging.rename(folder)
        except OSError as error:
            raise ModelFolderInvalid(f"{folder} cannot be made: {error.strerror}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Imported(json.loads((folder / "model.json").read_bytes()), outcome)


def _recognize(source: Path) -> tuple[str, Path]:
    """The engine and the model's file or folder."""
    if source.is_file():
        engine = _ENGINE_OF_FILE.get(source.suffix.lower().removeprefix("."))
        if engine is None:
            raise ModelFolderInvalid(f"{source} is no model of a known kind, expected {FORMATS}")
        return engine, source
    if not source.is_dir():
        raise ModelFolderInvalid(f"{source} does not exist, expected {FORMATS}")
    if (source / "model.json").exists():
        raise ModelFolderInvalid(
            f"{source} has a model.json: it is a model folder already; serve it as it is"
        )
    found = find_models(source)
    if len(found) != 1:
        models = ", ".join(str(model) for model in found.values()) or "no model"
        raise ModelFolderInvalid(f"{source} has {models}, expected {FORMATS}")
    ((engine, model),) = found.items()
    return engine, model


def _exists(folder: Path) -> bool:
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _imported_before(folder: Path, origin: dict[str, Any]) -> Imported:
    refused = ModelFolderInvalid(
        f"{folder} exists and is not of this import; choose another folder or remove it"
    )
    try:
        description = json.loads((folder / "model.json").read_bytes())
    except (OSError, ValueError):
        raise refused from None
    if not isinstance(description, dict) or description.get("imported") != origin:
        raise refused
    read_model_folder(folder)
    return Imported(description, None)


def _copy(engine: str, source: Path, model: Path, staging: Path) -> None:
    staging.mkdir()
    if model.suffix.lower().removeprefix(".") in KERAS:
        return  # trial.py converts it
    target = ENGINES[engine].model
    if engine == TENSORFLOW:
        root, prefix = model, target
    elif source.is_dir():
        root, prefix = source, ""
    else:
        shutil.copyfile(model, staging / target)
        return
    for path in files_of(root):
        relative = target if path == model else f"{prefix}{path.relative_to(root)}"
        (staging / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, staging / relative)


def _try(
    staging: Path,
    source: Path,
    engine: str,
    model: Path,
    origin: dict[str, Any],
    name: str,
    options: ImportOptions,
) -> dict[str, Any]:
    """Run trial.py, which writes model.json."""
    keras = str(model) if model.suffix.lower().removeprefix(".") in KERAS else None
    job = {
        "folder": str(staging),
        "engine": engine,
        "keras": keras,
        "name": name,
        "origin": origin,
        "options": asdict(options),
    }
    with tempfile.TemporaryDirectory() as work:
        result = Path(work) / "result.json"
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "serving_core.trial", str(result)],
                input=json.dumps(job),
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TRIAL_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ModelFolderInvalid(
                f"{source} has not run within {TRIAL_TIMEOUT_S:g} s, the limit of an import"
            ) from None
        log = RuntimeError(f"the model's process wrote:\n{done.stdout}{done.stderr}")
        if not result.exists():
            raise ModelFolderInvalid(
                f"{source} ended the process that ran it ({_end_of(done.returncode)}); "
                f"--debug shows what it wrote"
            ) from log
        outcome: dict[str, Any] = json.loads(result.read_bytes())
    if "error" in outcome:
        message = str(outcome["error"])
        message = message.replace(str(staging / ENGINES[engine].model), str(model))
        message = message.replace(str(staging), str(source))
        message = message.replace("the log has the traceback", "--debug shows the traceback")
        raise ModelFolderInvalid(message) from log
    return outcome


def _end_of(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
