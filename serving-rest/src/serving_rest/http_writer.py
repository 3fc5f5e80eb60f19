"""Write HTTP/1.x responses: the only place that writes a head."""

import time
from email.utils import formatdate
from http import HTTPStatus

from serving_core.protocols.http import HttpResponse

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SERVER = "serving-rest"
_STATUS_LINES = {status: f"{status.value} {status.phrase}" for status in HTTPStatus}
_OF_PREDICTIONS = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"


class ResponseWriter:
    """Encodes responses; it formats the date once a second."""

    def __init__(self) -> None:
        """No date is formatted yet."""
        self._second = 0
        self._date = ""

    def encode(
        self, response: HttpResponse, timing: str, version: str, close: bool, without_body: bool
    ) -> bytes:
        """Encode head and body, which go out in one segment.

        Args:
            response: The response.
            timing: The Server-Timing of a prediction; empty for another response.
            version: Of the request, "1.1" or "1.0".
            close: Whether the connection closes after it.
            without_body: Whether the request was HEAD, whose response has the length alone.
        """
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
        lines = f"Server-Timing: {timing}\r\n{_OF_PREDICTIONS}" if timing else ""
        if response.headers:
            lines += "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        if response.content_type:
            lines = f"Content-Type: {response.content_type}\r\n{lines}"
        head = (
            f"HTTP/{version} {_STATUS_LINES[response.status]}\r\n{lines}"
            f"Content-Length: {len(response.body)}\r\nServer: {SERVER}\r\nDate: {self._date}\r\n"
            f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
        ).encode("latin-1")
        return head if without_body else head + response.body
