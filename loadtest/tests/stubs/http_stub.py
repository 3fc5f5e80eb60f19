"""A gateway's REST side that answers by rote: /js/predict, /token, /counts.

It knows the held-out digits, bit by bit. Prints its port.
A mode spoils every third answer, or every one.
"""

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np

from model_runtime.digits import held_out

EVERY = 3
LABELS = {
    image.tobytes(): int(label)
    for image, label in zip(held_out().images, held_out().labels, strict=True)
}
counts = {"requests": 0, "spoiled": 0, "tokens": 0, "connections": 0}
counting = threading.Lock()


def count(name: str) -> int:
    with counting:
        counts[name] += 1
        return counts[name]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    disable_nagle_algorithm = True
    mode = "right"
    delay_s = 0.0
    key = "js-key"

    def setup(self) -> None:
        super().setup()
        count("connections")

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/counts":
            self.answer(200, json.dumps(counts))
        elif url.path == "/token":
            self.token(query)
        elif url.path == "/js/predict":
            self.predict(query)
        else:
            self.answer(404, "{}")

    def token(self, query: dict[str, str]) -> None:
        if (query["consumer_key"], query["consumer_secret"]) != ("all-key", "all-secret"):
            self.answer(
                401, json.dumps({"error_id": 6, "error_msg": "Consumer secret not correct"})
            )
            return
        number = count("tokens")
        self.answer(200, json.dumps({"access_token": f"token-{number}", "expires_in": 6000}))

    def predict(self, query: dict[str, str]) -> None:
        time.sleep(self.delay_s)
        if query["consumer_key"] != self.key:
            self.error(3, "Consumer not Authorized", 200)
            return
        if self.mode == "no-model":
            self.error(37, "Invalid or Null Strategy.", 200)
            return
        number = count("requests")
        values = json.loads(query["json"])["data"]
        assert len(values) == 784
        digit = LABELS.get(np.array(values, np.float32).tobytes(), 0)
        scores, puid = [0.01] * 10, query["puid"]
        scores[digit] = 0.91
        # The first request is the preflight's, which has to pass.
        if self.mode != "right" and number > 1 and number % EVERY == 0:
            count("spoiled")
            if self.mode == "sum":
                scores[digit] = 0.5
            elif self.mode == "digit":
                scores = scores[1:] + scores[:1]
            elif self.mode == "puid":
                puid = f"not-{puid}"
            elif self.mode == "status":
                self.error(13, "A generic error occurred", 500)
                return
            elif self.mode == "close":
                self.close_connection = True
                return
        predictions = [
            {"prediction": score, "predictedClass": str(index), "confidence": score}
            for index, score in enumerate(scores)
        ]
        meta = {"puid": puid, "modelName": "stub", "variation": "default"}
        document = {"meta": meta, "predictions": predictions, "custom": None}
        self.answer(200, f"{query['jsonpCallback']}({json.dumps(document)})")

    def error(self, error_id: int, message: str, status: int) -> None:
        document = {"error_id": error_id, "error_msg": message, "http_response": 400}
        self.answer(status, f"j({json.dumps(document)})")

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/javascript; charset=utf-8")
        self.send_header("Server-Timing", "queue;dur=0.250, compute;dur=1.500, total;dur=2.000")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", default="right")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds")
    options = parser.parse_args()
    Handler.mode, Handler.delay_s = options.mode, options.delay
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)  # noqa: T201 - read by the test
    server.serve_forever()
