"""What a model's own file says about its inputs and outputs."""

from typing import NamedTuple

import numpy as np

from serving_core.tensors import datatype_of


class OfferedTensor(NamedTuple):
    """An input or output.

    Attributes:
        name: Its name.
        datatype: A key of DATATYPES, or the engine's name of a type that no protocol has.
        shape: ANY for a variable size; None if the number of dimensions is variable too.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None


class Offered(NamedTuple):
    """A signature of a model.

    Attributes:
        inputs: Its inputs.
        outputs: Its outputs; None if only a call tells.
    """

    inputs: tuple[OfferedTensor, ...]
    outputs: tuple[OfferedTensor, ...] | None


def datatype_name(kind: object) -> str:
    """The datatype of something that numpy takes as a dtype, otherwise its name."""
    try:
        return datatype_of(np.dtype(kind))  # type: ignore[call-overload]
    except (KeyError, TypeError):
        return str(getattr(kind, "__name__", kind))
