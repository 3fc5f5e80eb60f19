"""Exceptions of predictions.

    ServingError
    ├── InvalidInput         INVALID_ARGUMENT    the caller's data is invalid; do not retry
    ├── ModelNotFound        NOT_FOUND           the request names another model
    ├── PredictorNotReady    NOT_READY           the model is loading or draining; retry soon
    ├── QueueFull            OVERLOADED          the queue is full; retry with backoff
    ├── DeadlinePassed       DEADLINE_EXCEEDED   the deadline passed before the model computed
    ├── PredictorFailed      INTERNAL            the engine failed; the log has the traceback
    ├── ServerFailed         INTERNAL            the server failed; the log has the traceback
    └── ModelFolderInvalid   INTERNAL            the model cannot be loaded; an operator must act

They are independent of HTTP and gRPC: each server maps kinds to status codes.
"""

from enum import StrEnum


class ErrorKind(StrEnum):
    """What the caller can do about an error."""

    INVALID_ARGUMENT = "invalid_argument"
    NOT_FOUND = "not_found"
    NOT_READY = "not_ready"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"


class ServingError(Exception):
    """A failed prediction; `str(error)` is safe to return to the caller."""

    kind: ErrorKind = ErrorKind.INTERNAL


class InvalidInput(ServingError):
    """The request is invalid; the message names the field and the limit."""

    kind = ErrorKind.INVALID_ARGUMENT


class ModelNotFound(ServingError):
    """The request names a model or a version that this server does not serve."""

    kind = ErrorKind.NOT_FOUND


class PredictorNotReady(ServingError):
    """The model is not loaded yet, or closed."""

    kind = ErrorKind.NOT_READY


class QueueFull(ServingError):
    """The queue in front of the model is full."""

    kind = ErrorKind.OVERLOADED


class DeadlinePassed(ServingError):
    """The request's deadline passed before it was computed."""

    kind = ErrorKind.DEADLINE_EXCEEDED


class PredictorFailed(ServingError):
    """The engine raised; the log has the traceback."""

    kind = ErrorKind.INTERNAL


class ServerFailed(ServingError):
    """An unexpected error; the log has the traceback."""

    kind = ErrorKind.INTERNAL


class ModelFolderInvalid(ServingError):
    """The model folder is missing, incomplete, or fails its checksums."""

    kind = ErrorKind.INTERNAL
