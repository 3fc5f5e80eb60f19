"""HTTP requests and responses as the protocols see them."""

from http import HTTPStatus
from typing import NamedTuple

from serving_core.errors import InvalidInput

JSON = "application/json"


class HttpRequest(NamedTuple):
    """A complete request; texts are bytes decoded as latin-1.

    Attributes:
        path: Without the query.
        method: In upper case.
        query: The raw query string.
        client: The gateway's name of the client; empty without a gateway.
        variation: The gateway's label of the variation; empty without a gateway.
        models: The gateway's labels of all variations of the client; empty if there is one.
        content_type: The Content-Type header, empty if absent.
        encoding: The Content-Encoding header, empty if absent.
        deadline_ms: Envoy's header with the request's timeout, empty if absent.
        header_length: The Inference-Header-Content-Length header, empty if absent.
        body: The body, empty if absent.
    """

    path: str
    method: str
    query: str
    client: str = ""
    variation: str = ""
    models: str = ""
    content_type: str = ""
    encoding: str = ""
    deadline_ms: str = ""
    header_length: str = ""
    body: bytes = b""


class HttpResponse(NamedTuple):
    """A response without the headers that every response has.

    Attributes:
        body: The complete body.
        status: The status of the response.
        content_type: The Content-Type header.
        headers: Further headers.
        outcome: The status that is counted, where it differs from the response's.
    """

    body: bytes
    status: HTTPStatus
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    outcome: HTTPStatus | None = None

    @property
    def code(self) -> str:
        """The status code in the metrics."""
        return _CODES[self.outcome or self.status]


def check_identity(request: HttpRequest) -> None:
    """Check that the body is not compressed.

    Raises:
        InvalidInput: It is.
    """
    if request.encoding.lower() not in ("", "identity"):
        raise InvalidInput(f"Content-Encoding is {request.encoding[:32]!r}, expected none")


_CODES = {status: str(status.value) for status in HTTPStatus}
