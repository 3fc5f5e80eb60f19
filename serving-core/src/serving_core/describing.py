"""Find out a model's signature: from its file, and from calls where the file says nothing."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_core.engines.offered import Offered, OfferedTensor
from serving_core.errors import ModelFolderInvalid, PredictorFailed, ServingError
from serving_core.loading import create, engine_module, example
from serving_core.model_folder import DEFAULT_SIGNATURE, LITERT, ModelFolder
from serving_core.predictor import Predictor
from serving_core.tensors import ANY, DATATYPES, Signature, Tensors, TensorSpec

# Two sizes of a batch tell which dimension of an output is the batch.
_ROWS = (2, 3)


@dataclass(frozen=True)
class Choice:
    """What the caller chooses of a model.

    Attributes:
        signature: One of several; by default the only one, or serving_default.
        inputs: Inputs that the model does not describe, or with sizes that it leaves variable.
        outputs: The outputs to serve; by default all.
    """

    signature: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[str, ...] = ()


def describe(folder: ModelFolder, choice: Choice | None = None) -> tuple[ModelFolder, Predictor]:
    """Complete a model folder whose signature is not known, and load its model.

    Raises:
        ModelFolderInvalid: The model cannot be loaded or served; the message names the option of
            `seldon-cli model import` that chooses.
    """
    choice = choice or Choice()
    offers = offers_of(folder)
    name = _choose(folder, offers, choice.signature)
    folder = dataclasses.replace(folder, description={**folder.description, "signature": name})
    offer = offers[name]
    inputs = _inputs(folder, offer.inputs, choice)
    outputs = _outputs(folder, offer.outputs, choice.outputs)
    if folder.info.engine == LITERT and _has_single_row(inputs):
        try:
            return _probe(folder, _with_batch(inputs), outputs, must_batch=True)
        except (ModelFolderInvalid, PredictorFailed):
            pass  # the file's operations hold the size 1
    return _probe(folder, inputs, outputs)


def offers_of(folder: ModelFolder) -> dict[str, Offered]:
    """The signatures of a model by name.

    Raises:
        ModelFolderInvalid: It cannot be loaded.
    """
    offers: dict[str, Offered] = engine_module(folder.info.engine).offered(folder)
    if not offers:
        raise ModelFolderInvalid(
            f"{folder.model} has no signature; export the model with one, as Keras' "
            f"model.export() and tf.saved_model.save(..., signatures=...) do"
        )
    return offers


def _choose(folder: ModelFolder, offers: dict[str, Offered], wanted: str | None) -> str:
    if wanted is None:
        if len(offers) == 1:
            return next(iter(offers))
        if DEFAULT_SIGNATURE in offers:
            return DEFAULT_SIGNATURE
        raise ModelFolderInvalid(
            f"{folder.model} has the signatures {', '.join(offers)}; choose one with --signature"
        )
    if wanted not in offers:
        raise ModelFolderInvalid(f"--signature is {wanted!r}, expected one of: {', '.join(offers)}")
    return wanted


def _inputs(
    folder: ModelFolder, offered: Sequence[OfferedTensor], choice: Choice
) -> tuple[TensorSpec, ...]:
    declared = {spec.name: spec for spec in choice.inputs}
    names = [tensor.name for tensor in offered] or list(declared)
    if not names:
        raise ModelFolderInvalid(
            f"{folder.model} does not say which inputs it takes; declare them with --input "
            f'NAME:DATATYPE:SHAPE, or in the class: inputs = {{"x": ("FP32", [-1, 4])}}'
        )
    unknown = next((name for name in declared if name not in names), None)
    if unknown is not None:
        raise ModelFolderInvalid(f"--input names {unknown!r}, expected one of: {', '.join(names)}")
    by_name = {tensor.name: tensor for tensor in offered}
    specs = []
    for name in names:
        tensor = by_name.get(name)
        if name in declared:
            spec = declared[name]
            if tensor is not None and not _refines(spec, tensor):
                raise ModelFolderInvalid(
                    f"--input declares {name} as {spec.datatype} {list(spec.shape)}, "
                    f"the model has {tensor.datatype} {list(tensor.shape or ())}"
                )
        elif tensor is None or tensor.shape is None:
            raise ModelFolderInvalid(
                f"input {name} has any number of dimensions; "
                f"declare them with --input {name}:DATATYPE:SHAPE, such as {name}:FP32:-1,4"
            )
        else:
            _check_datatype(tensor, "input", "")
            spec = TensorSpec(name, tensor.datatype, tensor.shape)
        specs.append(spec)
    return tuple(specs)


def _refines(spec: TensorSpec, tensor: OfferedTensor) -> bool:
    """Whether a declared input is one that the model takes."""
    if spec.datatype != tensor.datatype:
        return False
    return tensor.shape is None or (
        len(spec.shape) == len(tensor.shape)
        and all(own in (size, ANY) for size, own in zip(spec.shape, tensor.shape, strict=True))
    )


def _outputs(
    folder: ModelFolder, offered: Sequence[OfferedTensor] | None, wanted: tuple[str, ...]
) -> tuple[OfferedTensor, ...] | None:
    if offered is None:
        return None if not wanted else tuple(OfferedTensor(name, "", None) for name in wanted)
    names = [tensor.name for tensor in offered]
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None:
        raise ModelFolderInvalid(f"--output is {unknown!r}, expected one of: {', '.join(names)}")
    chosen = tuple(tensor for tensor in offered if not wanted or tensor.name in wanted)
    others = [tensor.name for tensor in offered if tensor.datatype in DATATYPES]
    for tensor in chosen:
        remedy = f"; choose others with --output: {', '.join(others)}" if others else ""
        _check_datatype(tensor, "output", remedy)
    return chosen


def _check_datatype(tensor: OfferedTensor, kind: str, remedy: str) -> None:
    if tensor.datatype not in DATATYPES:
        raise ModelFolderInvalid(
            f"{kind} {tensor.name} has the type {tensor.datatype}, which no protocol can hold, "
            f"expected one of {', '.join(DATATYPES)}{remedy}"
        )


def _has_single_row(inputs: Sequence[TensorSpec]) -> bool:
    return all(spec.shape[:1] == (1,) for spec in inputs)


def _with_batch(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(dataclasses.replace(spec, shape=(ANY, *spec.shape[1:])) for spec in inputs)


def _probe(
    folder: ModelFolder,
    inputs: tuple[TensorSpec, ...],
    offered: tuple[OfferedTensor, ...] | None,
    must_batch: bool = False,
) -> tuple[ModelFolder, Predictor]:
    """Call the model with two sizes of its variable dimensions, and see what its outputs do.

    Raises:
        ModelFolderInvalid: The model fails; or does not take a batch, if it must.
    """
    batch = all(spec.shape[:1] == (ANY,) for spec in inputs)
    provisional = tuple(_provisional(tensor, batch) for tensor in offered or ())
    predictor = create(_with_signature(folder, Signature(inputs, provisional, batch)))
    trial = Signature(inputs, (), batch)
    calls = [_call(predictor, example(trial, rows), folder) for rows in _ROWS]
    names = list(calls[0]) if offered is None else [tensor.name for tensor in offered]
    known = {tensor.name: tensor for tensor in offered or ()}
    # Sizes beside the batch that are variable in the inputs may be so in the outputs.
    varies = any(ANY in spec.shape[batch:] for spec in inputs)
    outputs = tuple(
        _output(folder, known.get(name), [call[name] for call in calls], name, varies)
        for name in names
    )
    follows = all(
        array.shape[:1] == (rows,)
        for rows, call in zip(_ROWS, calls, strict=True)
        for array in call.values()
    )
    batched = batch and follows and _rows_are_independent(predictor, trial, folder)
    if must_batch and not batched:
        raise ModelFolderInvalid(f"{folder.model} does not compute rows one by one")
    folder = _with_signature(folder, Signature(inputs, outputs, batched))
    if batched != batch or folder.info.engine == LITERT:
        return folder, create(folder)
    predictor.info = folder.info  # type: ignore[misc]  # the engines' attribute
    return folder, predictor


def _provisional(tensor: OfferedTensor, batch: bool) -> TensorSpec:
    shape = tensor.shape or ()
    if batch and shape:
        shape = (ANY, *shape[1:])
    return TensorSpec(tensor.name, tensor.datatype or "FP32", shape)


def _with_signature(folder: ModelFolder, signature: Signature) -> ModelFolder:
    return dataclasses.replace(folder, info=dataclasses.replace(folder.info, signature=signature))


def _call(predictor: Predictor, inputs: Tensors, folder: ModelFolder) -> Tensors:
    try:
        return predictor.predict(inputs)
    except ServingError as error:  # a Python class may refuse the example
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
        reason = " ".join(getattr(error, "__notes__", ())) or str(error)
        cause = error.__cause__
        if cause is not None and not hasattr(error, "__notes__"):
            reason += f": {str(cause).strip().partition(chr(10))[0][:300]}"
        raise ModelFolderInvalid(
            f"{folder.model} fails on an example ({shapes}): {reason}; "
            f"declare other sizes with --input NAME:DATATYPE:SHAPE"
        ) from error


def _output(
    folder: ModelFolder,
    offered: OfferedTensor | None,
    arrays: list[NDArray[Any]],
    name: str,
    varies: bool,
) -> TensorSpec:
    one, other = arrays
    datatype = _datatype(one)
    if datatype not in DATATYPES or one.ndim != other.ndim:
        raise ModelFolderInvalid(
            f"{folder.model}: output {name} is {datatype} of shapes {list(one.shape)} and "
            f"{list(other.shape)}, expected a datatype of {', '.join(DATATYPES)} and as many "
            f"dimensions in every call"
        )
    stated = (ANY,) * one.ndim
    if offered is not None and offered.shape is not None and len(offered.shape) == one.ndim:
        stated = offered.shape
    shape = tuple(
        first if first == second and (size == first or not varies) else ANY
        for first, second, size in zip(one.shape, other.shape, stated, strict=True)
    )
    return TensorSpec(name, datatype, shape)


def _datatype(array: NDArray[Any]) -> str:
    if array.dtype.kind in "OSU":
        return "BYTES"
    return next(
        (name for name, dtype in DATATYPES.items() if dtype == array.dtype), str(array.dtype)
    )


def _rows_are_independent(predictor: Predictor, signature: Signature, folder: ModelFolder) -> bool:
    """Whether each row is computed as alone, so that requests can be joined."""
    rows = _ROWS[-1]
    inputs = example(signature, rows)
    together, again = (_call(predictor, inputs, folder) for _ in range(2))
    if not _alike(together, again):
        return True  # random: no comparison tells
    for row in range(rows):
        alone = _call(
            predictor, {name: array[row : row + 1] for name, array in inputs.items()}, folder
        )
        if not _alike(alone, {name: array[row : row + 1] for name, array in together.items()}):
            return False
    return True


def _alike(one: Tensors, other: Tensors) -> bool:
    return all(
        array.shape == other[name].shape
        and (
            np.allclose(array, other[name], rtol=1e-2, atol=1e-3, equal_nan=True)
            if array.dtype.kind == "f"
            else np.array_equal(array, other[name])
        )
        for name, array in one.items()
    )
