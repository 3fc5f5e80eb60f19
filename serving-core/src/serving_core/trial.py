"""Run a model that is being imported: `python -m serving_core.trial RESULT`, the job on stdin.

It writes model.json into the folder and what it measured to the file RESULT.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from serving_core.describing import Choice, describe, offers_of
from serving_core.errors import ModelFolderInvalid, ServingError
from serving_core.loading import SUM_TOLERANCE, engine_module, example, warm_up
from serving_core.model_folder import (
    ENGINES,
    TENSORFLOW,
    ModelFolder,
    checksum,
    files_of,
    read_model_folder,
)
from serving_core.predictor import ModelInfo, Predictor
from serving_core.tensors import DATATYPES, Signature, TensorSpec

BATCHES = (1, 4, 16)
_LONGEST_S = 1.0  # of the calls with one batch size
_MOST_CALLS = 30


def main() -> None:
    """Do one job."""
    result = Path(sys.argv[1])
    try:
        outcome = run(json.load(sys.stdin))
    except ServingError as error:
        outcome = {"error": str(error)}
    result.write_text(json.dumps(outcome))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Describe the model, write model.json, load it as a server does, and measure.

    Raises:
        ModelFolderInvalid: It cannot be served.
    """
    path, options, engine = Path(job["folder"]), job["options"], job["engine"]
    if job["keras"] is not None:
        convert_keras = engine_module(TENSORFLOW).convert_keras
        convert_keras(Path(job["keras"]), path / ENGINES[TENSORFLOW].model)
    choice = Choice(
        options["signature"],
        tuple(_declared(*entry) for entry in options["inputs"]),
        tuple(options["outputs"]),
    )
    empty = ModelInfo(job["name"], options["version"], engine, Signature((), ()))
    bare = ModelFolder(path, path / ENGINES[engine].model, empty, {})
    folder, predictor = describe(bare, choice)
    signature = folder.info.signature
    ranges = {field: _of_inputs(options, field, signature) for field in ("ranges", "rescale")}
    description = {
        "name": job["name"],
        "version": options["version"],
        "engine": engine,
        **({"signature": folder.signature_name} if engine == TENSORFLOW else {}),
        "batched": signature.batched,
        "inputs": [
            _tensor(spec)
            | ({"range": ranges["ranges"][spec.name]} if spec.name in ranges["ranges"] else {})
            | ({"rescale": ranges["rescale"][spec.name]} if spec.name in ranges["rescale"] else {})
            for spec in signature.inputs
        ],
        "outputs": [_tensor(spec) for spec in signature.outputs],
        **({"classes": options["classes"]} if options["classes"] else {}),
        **({"scores": options["scores"]} if options["scores"] else {}),
        "files": {str(file.relative_to(path)): checksum(file) for file in files_of(path)},
        "imported": job["origin"],
    }
    (path / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    final = read_model_folder(path)
    predictor.info = final.info  # type: ignore[misc]  # the engines' attribute
    _check_classifier(predictor)
    warm_up(predictor, path)
    offers = offers_of(bare)
    return {
        "signatures": list(offers),
        "outputs": [tensor.name for tensor in offers[folder.signature_name or ""].outputs or ()],
        "values": {spec.name: _values(predictor, spec) for spec in signature.outputs},
        "latency_ms": _latencies(predictor),
    }


def _declared(name: str, datatype: str, shape: list[int]) -> TensorSpec:
    return TensorSpec(name, datatype, tuple(shape))


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _of_inputs(options: dict[str, Any], field: str, signature: Signature) -> dict[str, Any]:
    """Ranges by the name of the input; the name may be empty for the only one."""
    option = {"ranges": "--range", "rescale": "--rescale"}[field]
    names = [spec.name for spec in signature.inputs if DATATYPES[spec.datatype].kind in "iuf"]
    found = {}
    for name, limits in options[field].items():
        if name not in names and (name or len(names) != 1):
            raise ModelFolderInvalid(
                f"{option} is for the input {name!r}, expected one of: {', '.join(names) or 'none'}"
                f"; write {option} NAME=LOW,HIGH"
            )
        found[name or names[0]] = limits
    return found


def _check_classifier(predictor: Predictor) -> None:
    """Check that a model with classes is a classifier, whose scores are declared.

    Raises:
        ModelFolderInvalid: It is not; names the option that helps.
    """
    info = predictor.info
    if not info.classes:
        return
    view = info.classifier
    if view is None:
        tensors = "; ".join(
            f"{kind} {spec.name} {spec.datatype} {list(spec.shape)}"
            for kind, specs in (
                ("input", info.signature.inputs),
                ("output", info.signature.outputs),
            )
            for spec in specs
        )
        raise ModelFolderInvalid(
            f"--classes has {len(info.classes)} names, which need a batched model with one FP32 "
            f"input and one FP32 output of {len(info.classes)} scores; the model has {tensors}; "
            f"choose an output with --output, or import without --classes"
        )
    values = _values(predictor, info.signature.outputs[0])
    if info.scores is None and not values["probabilities"]:
        raise ModelFolderInvalid(
            f"output {view.output} has rows from {values['low']:.3g} to {values['high']:.3g} that "
            f"sum to {values['sum']:.3g}, expected probabilities that sum to 1; "
            f"say --scores logits, or --scores probabilities for classes that do not exclude each "
            f"other"
        )


def _values(predictor: Predictor, spec: TensorSpec) -> dict[str, Any]:
    """What an output has for an example: limits, sum of the first row, whether probabilities."""
    signature = predictor.info.signature
    array = predictor.predict(example(signature, 4))[spec.name]
    if array.dtype.kind not in "iuf" or not array.size or not np.isfinite(array).all():
        return {"probabilities": False}
    found: dict[str, Any] = {"low": float(array.min()), "high": float(array.max())}
    row = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
    sums = row.sum(axis=1)
    found["sum"] = float(sums[0])
    found["probabilities"] = bool(
        array.dtype.kind == "f"
        and row.shape[1] > 1
        and found["low"] >= 0
        and np.abs(sums - 1).max() <= SUM_TOLERANCE
    )
    return found


def _latencies(predictor: Predictor) -> dict[int, float]:
    """Median latency of a call by batch size, in milliseconds."""
    found = {}
    for rows in BATCHES if predictor.info.signature.batched else (1,):
        inputs = example(predictor.info.signature, rows)
        durations: list[float] = []
        while not durations or (len(durations) < _MOST_CALLS and sum(durations) < _LONGEST_S):
            began = time.perf_counter()
            predictor.predict(inputs)
            durations.append(time.perf_counter() - began)
        found[rows] = statistics.median(durations) * 1e3
    return found


if __name__ == "__main__":
    main()
