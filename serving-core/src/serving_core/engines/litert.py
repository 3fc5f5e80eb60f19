"""The default engine: LiteRT with XNNPACK on one thread."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
from numpy.typing import NDArray

from serving_core.engines.mapped_file import release_pages
from serving_core.engines.offered import Offered, OfferedTensor, datatype_name
from serving_core.errors import ModelFolderInvalid, PredictorFailed
from serving_core.model_folder import ModelFolder
from serving_core.predictor import MAX_BATCH, ModelInfo
from serving_core.tensors import Tensors, TensorSpec

log = logging.getLogger(__name__)

# Batch sizes with an interpreter; each has a copy of the weights. A size of 2 would save little
# (docs/performance-log.md).
PREPARED = (MAX_BATCH, 8, 4, 1)

Array = NDArray[Any]


@cache
def split_batch(rows: int) -> tuple[int, ...]:
    """Split a batch into prepared sizes at the lowest cost; the last part may be padded.

    A call costs about as much as one more image: three images are cheaper as four than singly.
    """
    if rows <= 0:
        return ()
    if rows >= MAX_BATCH:
        full, rest = divmod(rows, MAX_BATCH)
        return (MAX_BATCH,) * full + split_batch(rest)
    ways = [(size, *split_batch(rows - size)) for size in PREPARED]
    return min(ways, key=lambda sizes: sum(sizes) + len(sizes))


class LiteRTPredictor:
    """One interpreter per prepared batch size: resizing one costs more than a call.

    A model with variable dimensions, or without a batch, has one interpreter, which is resized when
    the shapes of the inputs change.
    """

    def __init__(self, folder: ModelFolder) -> None:
        """Create the interpreters.

        Raises:
            ModelFolderInvalid: LiteRT cannot read the file, or its tensors differ from model.json.
        """
        self.info: ModelInfo = folder.info
        signature = folder.info.signature
        fixed = signature.batched and not signature.has_variable_items
        try:
            self._prepared = {
                size: _Interpreter(folder, size) for size in (PREPARED if fixed else ())
            }
            self._resized = None if fixed else _Interpreter(folder, 1)
        except (ValueError, RuntimeError) as error:
            raise ModelFolderInvalid(f"LiteRT cannot load {folder.model}: {error}") from error
        # Each interpreter has copied the weights out of the mapped file.
        release_pages(folder.model)

    def predict(self, inputs: Tensors) -> Tensors:
        """See Predictor.predict; a batch that is not a prepared size is split."""
        try:
            if self._resized is not None:
                return self._resized.run(inputs)
            rows = len(next(iter(inputs.values())))
            prepared = self._prepared.get(rows)
            if prepared is not None:
                return prepared.run(inputs)
            parts = list(self._in_parts(inputs, rows))
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        except (ValueError, RuntimeError) as error:
            log.exception("LiteRT failed on a batch")
            raise PredictorFailed("the model failed on this input") from error

    def _in_parts(self, inputs: Tensors, rows: int) -> Iterator[Tensors]:
        start = 0
        for size in split_batch(rows):
            end = start + size
            given = min(end, rows) - start
            part = {name: _padded(array[start:end], size) for name, array in inputs.items()}
            outputs = self._prepared[size].run(part)
            yield {name: array[:given] for name, array in outputs.items()}
            start = end


def offered(folder: ModelFolder) -> dict[str, Offered]:
    """The inputs and outputs of the file's first signature; quantized ones take float32.

    Raises:
        ModelFolderInvalid: LiteRT cannot read the file.
    """
    try:
        interpreter = Interpreter(model_path=str(folder.model), num_threads=1)
    except (ValueError, RuntimeError) as error:
        raise ModelFolderInvalid(f"LiteRT cannot load {folder.model}: {error}") from error
    names = [
        {index: name for name, index in found.items()} for found in _names_in_file(interpreter)
    ]
    inputs, outputs = (
        tuple(_offered_tensor(detail, kind) for detail in details)
        for details, kind in zip(
            (interpreter.get_input_details(), interpreter.get_output_details()), names, strict=True
        )
    )
    return {next(iter(interpreter.get_signature_list()), "main"): Offered(inputs, outputs)}


def _offered_tensor(detail: dict[str, Any], names: dict[int, str]) -> OfferedTensor:
    datatype = "FP32" if detail["quantization"][0] else datatype_name(detail["dtype"])
    shape = tuple(int(size) for size in detail["shape_signature"])
    return OfferedTensor(names.get(detail["index"], detail["name"]), datatype, shape)


class _Interpreter:
    """An interpreter with allocated tensors."""

    def __init__(self, folder: ModelFolder, rows: int) -> None:
        # One thread: each core has a process of its own.
        self._interpreter = Interpreter(model_path=str(folder.model), num_threads=1)
        signature = folder.info.signature
        names = _names_in_file(self._interpreter)
        inputs = _bind(signature.inputs, self._interpreter.get_input_details(), names[0])
        if len(inputs) != len(self._interpreter.get_input_details()):
            raise ValueError(f"model.json has {len(inputs)} of its inputs, expected all")
        outputs = _bind(signature.outputs, self._interpreter.get_output_details(), names[1])
        self._inputs = {name: (detail["index"], _quantize(detail)) for name, detail in inputs}
        self._outputs = {name: (detail["index"], _dequantize(detail)) for name, detail in outputs}
        self._shapes = {
            spec.name: tuple(rows if size < 0 else size for size in spec.shape)
            for spec in signature.inputs
        }
        self._allocate()
        for spec, (index, _) in zip(signature.outputs, self._outputs.values(), strict=True):
            shape = self._interpreter.get_tensor(index).shape
            expected = tuple(rows if size < 0 else size for size in spec.shape)
            if signature.batched and not signature.has_variable_items and shape != expected:
                raise ValueError(
                    f"its output {spec.name} has shape {shape}, expected {expected} from model.json"
                )

    def run(self, inputs: Tensors) -> Tensors:
        """Compute; a change of shapes resizes the interpreter."""
        interpreter = self._interpreter
        for name, array in inputs.items():
            if array.shape != self._shapes[name]:
                self._shapes = {key: value.shape for key, value in inputs.items()}
                self._allocate()
                break
        for name, array in inputs.items():
            index, quantize = self._inputs[name]
            interpreter.set_tensor(index, array if quantize is None else quantize(array))
        interpreter.invoke()
        outputs: dict[str, Array] = {}
        for name, (index, dequantize) in self._outputs.items():
            array = interpreter.get_tensor(index)
            outputs[name] = array if dequantize is None else dequantize(array)
        return outputs

    def _allocate(self) -> None:
        for name, shape in self._shapes.items():
            self._interpreter.resize_tensor_input(self._inputs[name][0], shape)
        self._interpreter.allocate_tensors()


def _names_in_file(interpreter: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Tensor indices by the names in the file's first signature, of inputs and outputs."""
    signatures = interpreter.get_signature_list()
    if not signatures:
        return {}, {}
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    inputs, outputs = (
        {name: detail["index"] for name, detail in details.items()}
        for details in (runner.get_input_details(), runner.get_output_details())
    )
    return inputs, outputs


def _bind(
    specs: Sequence[TensorSpec], details: Sequence[dict[str, Any]], names: dict[str, int]
) -> list[tuple[str, dict[str, Any]]]:
    """Pair each tensor of model.json with one of the file: by name, otherwise by position.

    Outputs that model.json does not name are left out.
    """
    by_name = {detail["name"]: detail for detail in details}
    by_index = {detail["index"]: detail for detail in details}
    by_name |= {name: by_index[index] for name, index in names.items() if index in by_index}
    if all(spec.name in by_name for spec in specs):
        return [(spec.name, by_name[spec.name]) for spec in specs]
    if len(specs) != len(details):
        raise ValueError(f"it has {len(details)} tensors, expected {len(specs)} from model.json")
    return [(spec.name, detail) for spec, detail in zip(specs, details, strict=True)]


def _quantize(detail: dict[str, Any]) -> Callable[[Array], Array] | None:
    """From float32 to the integers of a quantized input; None if it is not quantized."""
    scale, zero = detail["quantization"]
    if not scale:
        return None
    dtype = detail["dtype"]
    limits = np.iinfo(dtype)

    def quantize(array: Array) -> Array:
        scaled: Array = np.rint(array / np.float32(scale)) + zero
        return scaled.clip(limits.min, limits.max).astype(dtype)

    return quantize


def _dequantize(detail: dict[str, Any]) -> Callable[[Array], Array] | None:
    """From the integers of a quantized output to float32; None if it is not quantized."""
    scale, zero = detail["quantization"]
    if not scale:
        return None
    return lambda array: (array.astype(np.float32) - zero) * np.float32(scale)


def _padded(array: Array, size: int) -> Array:
    """The array with zeros up to `size` rows."""
    if len(array) == size:
        return array
    filled = np.zeros((size, *array.shape[1:]), array.dtype)
    filled[: len(array)] = array
    return filled
