"""The one tree of errors that a prediction can end in.

    ServingError
    ├── InvalidInstances     INVALID_ARGUMENT    the caller's data is wrong; do not repeat it
    ├── PredictorNotReady    NOT_READY           the model is loading or draining; try again soon
    ├── QueueFull            OVERLOADED          the queue is full; back off, then try again
    ├── DeadlinePassed       DEADLINE_EXCEEDED   the caller's time was up before the model was free
    ├── PredictorFailed      INTERNAL            the engine failed; the log has the traceback
    └── ModelFolderInvalid   INTERNAL            the model cannot be loaded; an operator must act

No class knows HTTP or gRPC: each front end has one table from kind to status.
"""

from enum import StrEnum


class ErrorKind(StrEnum):
    """What the caller can do about an error."""

    INVALID_ARGUMENT = "invalid_argument"
    NOT_READY = "not_ready"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"


class ServingError(Exception):
    """A failed prediction; `str(error)` is fit for the caller to read."""

    kind: ErrorKind = ErrorKind.INTERNAL


class InvalidInstances(ServingError):
    """The instances are not what the model scores; the message names field and limit."""

    kind = ErrorKind.INVALID_ARGUMENT


class PredictorNotReady(ServingError):
    """Called before the model has loaded, or after it was closed."""

    kind = ErrorKind.NOT_READY


class QueueFull(ServingError):
    """The bounded queue in front of the model is full; refused at once."""

    kind = ErrorKind.OVERLOADED


class DeadlinePassed(ServingError):
    """The request's deadline passed while it waited; it was not computed."""

    kind = ErrorKind.DEADLINE_EXCEEDED


class PredictorFailed(ServingError):
    """The engine raised; worded without its traceback, which is in the log."""

    kind = ErrorKind.INTERNAL


class ModelFolderInvalid(ServingError):
    """The model folder is missing, incomplete, or fails its checksums."""

    kind = ErrorKind.INTERNAL
