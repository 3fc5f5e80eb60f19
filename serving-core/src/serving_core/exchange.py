"""The life of a request: decoded, queued, computed, encoded, counted and timed, in every protocol.

A server creates an `Exchange` when a request arrives, and starts it when the request is complete.
The exchange calls the server's `send` once, with the reply, whatever happens.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from serving_core.batching import Computed, MicroBatcher
from serving_core.errors import DeadlinePassed, ServerFailed, ServingError
from serving_core.predictor import ModelInfo
from serving_core.tensors import Tensors

log = logging.getLogger(__name__)

# Labels of metrics: a longer name of the gateway is cut.
MAX_LABEL = 64


class InferenceRequest(NamedTuple):
    """A decoded request.

    Attributes:
        inputs: Every input of the model, in its datatype and shape.
        rows: The size of the batch dimension; 1 if the model is not batched.
        id: The caller's id, or a new one.
        options: What the protocol needs to encode the response.
    """

    inputs: Tensors
    rows: int
    id: str
    options: Any = None


class Served(NamedTuple):
    """Who served a request.

    Attributes:
        model: The model.
        variation: The variation's label at the gateway, "default" without a gateway.
        names: The model's names at the gateway, separated by commas; empty without a gateway.
    """

    model: ModelInfo
    variation: str = "default"
    names: str = ""

    @classmethod
    def by(cls, model: ModelInfo, variation: str, names: str) -> "Served":
        """Create it from the gateway's headers, which are empty without a gateway.

        Args:
            model: The model.
            variation: The label of the variation.
            names: The labels of all variations of the client; empty if there is one.
        """
        return cls(model, variation[:MAX_LABEL] or "default", names or variation)


class Reply(Protocol):
    """A protocol's reply."""

    @property
    def code(self) -> str:
        """The status code in the metrics."""
        ...


M = TypeVar("M")
R = TypeVar("R", bound=Reply)
M_contra = TypeVar("M_contra", contravariant=True)
R_co = TypeVar("R_co", bound=Reply, covariant=True)


class Codec(Protocol[M_contra, R_co]):
    """A protocol; its functions are pure."""

    def decode(self, message: M_contra, served: Served) -> InferenceRequest:
        """Decode a request.

        Raises:
            ServingError: The request is invalid; the message names the field and the limit.
        """
        ...

    def encode(
        self, message: M_contra, request: InferenceRequest, computed: Computed, served: Served
    ) -> R_co:
        """Encode the response."""
        ...

    def refuse(self, message: M_contra, error: ServingError) -> R_co:
        """Encode an error."""
        ...


class Recorder(Protocol):
    """Counts requests; `monitoring.metrics.ServingMetrics` is one."""

    def begin(self) -> None:
        """Count a request as in flight until `observe`."""
        ...

    def observe(
        self,
        client: str,
        variation: str,
        code: str,
        total_s: float,
        queue_s: float | None = None,
        compute_s: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Record a completed request."""
        ...


@dataclass(frozen=True)
class DataPlane:
    """What all requests of a process share."""

    batcher: MicroBatcher
    metrics: Recorder


# Sends a reply with its Server-Timing and calls the third argument, which counts the request, just
# before the write: a process killed in between has counted a request without a reply, never the
# reverse.
Send = Callable[[R, str, Callable[[], None]], None]


class Exchange(Generic[M, R]):
    """One request from its arrival to its reply."""

    __slots__ = (
        "_client",
        "_codec",
        "_finished",
        "_message",
        "_plane",
        "_request",
        "_send",
        "_served",
        "_started",
    )

    def __init__(
        self,
        plane: DataPlane,
        codec: Codec[M, R],
        client: str,
        served: Served,
        send: Send[R],
    ) -> None:
        """Count a request as in flight.

        Args:
            plane: The process's batcher and metrics.
            codec: The request's protocol.
            client: The gateway's name of the client, empty without a gateway.
            served: Who serves the request.
            send: Called once, in the thread that calls a method here or that runs the engine.
        """
        self._started = time.perf_counter()
        self._plane = plane
        self._codec = codec
        self._client = client[:MAX_LABEL] or "direct"
        self._served = served
        self._send = send
        self._finished = threading.Lock()  # acquired by the first to finish
        plane.metrics.begin()

    def start(self, message: M, timeout_s: float | None) -> None:
        """Decode and enqueue the request.

        Args:
            message: The complete request.
            timeout_s: Its deadline in seconds from its arrival; None without one.
        """
        self._message = message
        try:
            self._request = request = self._codec.decode(message, self._served)
            if timeout_s is not None:
                timeout_s -= time.perf_counter() - self._started
            inputs = self._served.model.signature.in_range(request.inputs)
            self._plane.batcher.enqueue(inputs, request.rows, self._end, timeout_s)
        except Exception as error:  # the caller never receives a traceback
            self._end(error)

    def refuse(self, message: M, error: ServingError) -> None:
        """Reply with an error that arose before the request was complete."""
        self._message = message
        self._end(error)

    def expire(self) -> None:
        """Reply that the deadline has passed, unless there is a reply already."""
        waited_s = time.perf_counter() - self._started
        self._end(DeadlinePassed(f"no answer within the deadline, {waited_s:.3f} s"))

    def _end(self, outcome: Computed | Exception) -> None:
        if not self._finished.acquire(blocking=False):
            return
        message, codec = self._message, self._codec
        times: tuple[float, float, int] | tuple[()] = ()
        try:
            if not isinstance(outcome, Computed):
                raise outcome
            reply = codec.encode(message, self._request, outcome, self._served)
            times = outcome.queue_s, outcome.compute_s, outcome.batch_size
        except ServingError as error:
            reply = codec.refuse(message, error)
        except Exception:
            log.exception("a request failed")
            reply = codec.refuse(message, ServerFailed("the server failed on this request"))
        total_s = time.perf_counter() - self._started
        count = partial(
            self._plane.metrics.observe,
            *(self._client, self._served.variation, reply.code, total_s),
            *times,
        )
        self._send(reply, server_timing(total_s, *times[:2]), count)


def server_timing(
    total_s: float, queue_s: float | None = None, compute_s: float | None = None
) -> str:
    """The Server-Timing text: milliseconds with three decimals; no queue time without inference."""
    if queue_s is None or compute_s is None:
        return f"total;dur={total_s * 1e3:.3f}"
    return (
        f"queue;dur={queue_s * 1e3:.3f}, compute;dur={compute_s * 1e3:.3f}, "
        f"total;dur={total_s * 1e3:.3f}"
    )
