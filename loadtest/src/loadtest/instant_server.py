"""`python -m loadtest.instant_server`: responds immediately, for calibration.

Serves GET /js/predict and /token over HTTP and Classify over gRPC, and prints the two ports. Every
response predicts the digit 0 with the request's puid and timings of 0, without any computation.
"""

from __future__ import annotations

import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import orjson

from loadtest import wire
from loadtest.answers import CLASSES, GATEWAY_TIMING, SERVER_TIMING
from seldon_pb2 import ClassificationReply, ClassificationRequest

SCORES = (0.91, *(0.01,) * 9)
TIMES = "queue;dur=0.000, compute;dur=0.000, total;dur=0.000"
GATEWAY = "in=0, upstream=0"
TOKEN = b'{"access_token":"instant","expires_in":6000}'
GRPC_THREADS = 64
BACKLOG = 4096

_PREDICTIONS = orjson.dumps(
    [
        {"prediction": score, "predictedClass": name, "confidence": score}
        for name, score in zip(CLASSES, SCORES, strict=True)
    ]
)
_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    f"{SERVER_TIMING}: {TIMES}\r\n{GATEWAY_TIMING}: {GATEWAY}\r\nContent-Length: "
).encode()


def answer(request: bytes) -> bytes:
    """The HTTP response to one request without a body."""
    target = request.split(b" ", 2)[1]
    if target.startswith(b"/token"):
        body = TOKEN
    else:
        puid = target.rpartition(b"puid=")[2]
        body = b'{"meta":{"puid":"%b"},"predictions":%b}' % (puid, _PREDICTIONS)
    return _HEAD + b"%d\r\n\r\n%b" % (len(body), body)


def serve_http(listener: socket.socket) -> None:
    """Serve all connections in one thread, forever."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    received: dict[int, bytes] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                continue
            assert isinstance(key.fileobj, socket.socket)  # noqa: S101
            try:
                data = key.fileobj.recv(1 << 16)
                if data:
                    text = received.pop(key.fd, b"") + data
                    *whole, rest = text.split(b"\r\n\r\n")
                    for request in whole:
                        key.fileobj.sendall(answer(request))
                    if rest:
                        received[key.fd] = rest
                    continue
            except OSError:
                pass  # the peer disconnected
            received.pop(key.fd, None)
            selector.unregister(key.fileobj)
            key.fileobj.close()


def classify(request: bytes, context: grpc.ServicerContext) -> ClassificationReply:
    """The reply to one call."""
    context.send_initial_metadata(((GATEWAY_TIMING, GATEWAY),))
    context.set_trailing_metadata(((SERVER_TIMING, TIMES),))
    reply = ClassificationReply()
    reply.meta.puid = ClassificationRequest.FromString(request).meta.puid
    for name, score in zip(CLASSES, SCORES, strict=True):
        reply.predictions.add(prediction=score, predictedClass=name, confidence=score)
    return reply


def start_grpc() -> tuple[grpc.Server, int]:
    server = grpc.server(ThreadPoolExecutor(GRPC_THREADS))
    handler = grpc.unary_unary_rpc_method_handler(
        classify, bytes, ClassificationReply.SerializeToString
    )
    service, method = wire.CLASSIFY.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    server, grpc_port = start_grpc()
    stopped = threading.Event()
    stop: Callable[..., None] = lambda *_: stopped.set()  # noqa: E731
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=serve_http, args=(listener,), daemon=True).start()
    sys.stdout.write(f"{listener.getsockname()[1]} {grpc_port}\n")
    sys.stdout.flush()
    stopped.wait()
    server.stop(0)


if __name__ == "__main__":
    main()
