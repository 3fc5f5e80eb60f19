"""A gateway's gRPC side that answers by rote; its counts are at an HTTP port.

It knows the held-out digits, bit by bit. Prints both ports.
A mode spoils every third answer, or refuses the second token.
"""

import argparse
import json
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import stub_answers

from seldon_pb2 import ClassificationReply, ClassificationRequest
from seldon_pb2_grpc import SeldonServicer, add_SeldonServicer_to_server

EVERY = 3
counts = {"requests": 0, "spoiled": 0, "refused": 0}
peers: set[str] = set()
counting = threading.Lock()


class Servicer(SeldonServicer):
    def __init__(self, mode: str, delay_s: float) -> None:
        self.mode = mode
        self.delay_s = delay_s

    def Classify(  # noqa: N802 - the .proto's name
        self, request: ClassificationRequest, context: grpc.ServicerContext
    ) -> ClassificationReply:
        time.sleep(self.delay_s)
        token = str(dict(context.invocation_metadata()).get("oauth_token", ""))
        expired = self.mode == "expired" and token == "token-2"
        with counting:
            peers.add(context.peer())
            if expired or not token.startswith("token-"):
                counts["refused"] += 1
            else:
                counts["requests"] += 1
            number = counts["requests"]
        if expired or not token.startswith("token-"):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Could not determine client")
        if self.mode == "no-model":
            context.abort(grpc.StatusCode.UNAVAILABLE, "Invalid or Null Strategy.")
        told = stub_answers.digits_in_request(request)
        scores = [score for digit in told for score in stub_answers.scores_for(digit)]
        puid = request.meta.puid
        if self.mode in ("sum", "puid", "status") and number > 1 and number % EVERY == 0:
            with counting:
                counts["spoiled"] += 1
            if self.mode == "sum":
                scores[told[0]] = 0.5
            elif self.mode == "puid":
                puid = f"not-{puid}"
            else:
                context.abort(grpc.StatusCode.INTERNAL, "the model failed")
        context.set_trailing_metadata((("server-timing", stub_answers.TIMING),))
        return stub_answers.reply(puid, scores)


class Counts(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({**counts, "connections": len(peers)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", default="right")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds")
    options = parser.parse_args()
    server = grpc.server(futures.ThreadPoolExecutor(40))
    add_SeldonServicer_to_server(Servicer(options.mode, options.delay), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    side = HTTPServer(("127.0.0.1", 0), Counts)
    print(port, side.server_address[1], flush=True)  # noqa: T201 - read by the test
    side.serve_forever()
