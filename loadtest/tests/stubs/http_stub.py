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

import stub_answers

EVERY = 3
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
            self.predict([query["json"]], query)
        else:
            self.answer(404, "{}")

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        assert url.path == "/js/predict"
        assert self.headers["Content-Type"] == "application/json"
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]
        images = data if isinstance(data[0], list) else [data]
        self.predict([json.dumps({"data": image}) for image in images], query)

    def token(self, query: dict[str, str]) -> None:
        self.answer(*stub_answers.token(query, lambda: count("tokens")))

    def predict(self, documents: list[str], query: dict[str, str]) -> None:
        time.sleep(self.delay_s)
        if query["consumer_key"] != stub_answers.JS_KEY:
            self.answer(200, stub_answers.jsonp_error(3, "Consumer not Authorized"))
            return
        if self.mode == "no-model":
            self.answer(200, stub_answers.jsonp_error(37, "Invalid or Null Strategy."))
            return
        number = count("requests")
        digits = [stub_answers.digit_in_json(document) for document in documents]
        scores = [score for digit in digits for score in stub_answers.scores_for(digit)]
        puid = query["puid"]
        # The first request is the preflight's, which has to pass.
        if self.mode != "right" and number > 1 and number % EVERY == 0:
            count("spoiled")
            if self.mode == "sum":
                scores[digits[0]] = 0.5
            elif self.mode == "digit":
                scores = scores[1:] + scores[:1]
            elif self.mode == "puid":
                puid = f"not-{puid}"
            elif self.mode == "status":
                self.answer(500, stub_answers.jsonp_error(13, "A generic error occurred"))
                return
            elif self.mode == "close":
                self.close_connection = True
                return
        self.answer(200, stub_answers.jsonp(query.get("jsonpCallback", ""), puid, scores))

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/javascript; charset=utf-8")
        self.send_header("Server-Timing", stub_answers.TIMING)
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
