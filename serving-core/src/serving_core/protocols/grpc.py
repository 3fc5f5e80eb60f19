"""gRPC replies as the protocols see them."""

from typing import NamedTuple

from serving_core.errors import ErrorKind, ServingError


class GrpcReply(NamedTuple):
    """A reply, or a status with its details.

    Attributes:
        message: The encoded message; None with an error.
        code: Name of the gRPC status code.
        details: The error's text; empty with OK.
    """

    message: bytes | None
    code: str = "OK"
    details: str = ""


CODES = {
    ErrorKind.INVALID_ARGUMENT: "INVALID_ARGUMENT",
    ErrorKind.NOT_FOUND: "NOT_FOUND",
    ErrorKind.NOT_READY: "UNAVAILABLE",
    ErrorKind.OVERLOADED: "RESOURCE_EXHAUSTED",
    ErrorKind.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    ErrorKind.INTERNAL: "INTERNAL",
}


def refuse(message: bytes, error: ServingError) -> GrpcReply:
    """The status of an error, the same in every protocol."""
    return GrpcReply(None, CODES[error.kind], str(error))
