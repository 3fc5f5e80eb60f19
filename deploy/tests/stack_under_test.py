"""A stack as its tests see it: a user's commands, a client's predictions."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import grpc
import psutil
import requests
from click.testing import CliRunner, Result
from google.protobuf.any_pb2 import Any

import seldon_pb2
import seldon_pb2_grpc
from deploy import check, stack_processes
from deploy.commands.cli import main as seldon_cli
from deploy.commands.gateway import seldon_down, seldon_up
from deploy.commands.microservice import start_microservice, stop_microservice
from deploy.local import LocalStack
from deploy.microservices import Api
from deploy.operator_view import Credentials, operator
from deploy.probes import loopback_session
from deploy.settings import StackSettings
from serving_core.digits import held_out

MODEL = Path(__file__).parents[2] / "models/deep_mnist/1"
CLIENT = "deep_mnist_client"
DIGIT = held_out().images[0].tolist()


@dataclass
class StackUnderTest:
    """One stack on ports of its own."""

    home: Path
    ports: list[int]
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        rest, rpc, admin, control, *_, last = self.ports
        return {
            "SELDON_HOME": str(self.home),
            "SELDON_REST_PORT": str(rest),
            "SELDON_GRPC_PORT": str(rpc),
            "SELDON_ADMIN_PORT": str(admin),
            "SELDON_CONTROL_PORT": str(control),
            "SELDON_PROMETHEUS_PORT": "0",
            "SELDON_MICROSERVICE_PORTS": f"{self.ports[4]}-{last}",
            "REST_WORKERS": "1",
            "GRPC_WORKERS": "1",
            "REST_DRAIN_DELAY_S": "0.3",
            **self.extra,
        }

    @property
    def local(self) -> LocalStack:
        return LocalStack(self.home)

    @property
    def settings(self) -> StackSettings:
        return StackSettings.from_env(self.environment)

    def run(self, command: click.Command, *words: str, **environment: str) -> Result:
        """Run a command; `output` has both streams, `stderr` and `stdout` one each."""
        result = CliRunner(env={**self.environment, **environment}).invoke(command, words)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        assert "Traceback" not in result.output
        return result

    def ok(self, command: click.Command, *words: str, **environment: str) -> str:
        result = self.run(command, *words, **environment)
        assert result.exit_code == 0, result.output
        return result.output

    def refused(self, command: click.Command, *words: str, **environment: str) -> str:
        """Run a command that fails with one sentence."""
        result = self.run(command, *words, **environment)
        assert result.exit_code == 1, result.output
        sentence = result.stderr.splitlines()[-1]
        assert sentence.startswith("error: ")
        return sentence

    def up(self) -> str:
        return self.ok(seldon_up)

    def down(self, *words: str) -> str:
        return self.ok(seldon_down, *words)

    def cli(self, *words: str) -> str:
        return self.ok(seldon_cli, *words)

    def start(
        self, *entries: str, client: str = CLIENT, replicas: int = 1, **environment: str
    ) -> str:
        """`start("mnist rest 1.0", ...)` of the committed model."""
        words = [*self._words(client, entries), "--replicas", str(replicas)]
        return self.ok(start_microservice, *words, **environment)

    def start_refused(self, *entries: str, client: str = CLIENT, **environment: str) -> str:
        return self.refused(start_microservice, *self._words(client, entries), **environment)

    def stop(self, *words: str) -> str:
        return self.ok(stop_microservice, *words)

    def stop_refused(self, *words: str) -> str:
        return self.refused(stop_microservice, *words)

    @staticmethod
    def _words(client: str, entries: tuple[str, ...]) -> list[str]:
        words = ["--type", "prediction", "--client", client]
        for entry in entries:
            name, *folder, api, ratio = entry.split()
            words += ["-p", name, *(folder or [str(MODEL)]), api, ratio]
        return words

    def processes(self, program: str | None = None) -> list[psutil.Process]:
        return stack_processes.of_stack(self.home, program)

    def pids(self) -> set[int]:
        return {process.pid for process in self.processes()}

    def credentials(self, client: str = CLIENT) -> Credentials:
        with operator(self.local.files, self.environment) as it:
            return it.credentials(client)

    def caller(self, client: str = CLIENT) -> "Caller":
        return Caller(self, self.credentials(client))


class Caller:
    """A client's kept connections."""

    def __init__(self, stack: StackUnderTest, shown: Credentials) -> None:
        gateway = stack.settings.gateway
        self._url = f"http://127.0.0.1:{gateway.rest_port}/js/predict"
        self._shown = shown
        self._token = check.access_token(gateway, shown)
        self._session = loopback_session()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}")
        self._stub = seldon_pb2_grpc.SeldonStub(self._channel)
        data = Any()
        data.Pack(seldon_pb2.DefaultCustomPredictRequest(values=DIGIT))
        self._request = seldon_pb2.ClassificationRequest(data=data)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._channel.close()

    def variation(self, api: Api) -> str | None:
        """The label of the variation that answers, None when none does."""
        return self.rest() if api is Api.REST else self.rpc()

    def rest(self) -> str | None:
        try:
            answer = self._session.post(
                self._url,
                params={"consumer_key": self._shown.js_key},
                json={"data": DIGIT},
                timeout=10,
            )
        except requests.RequestException:
            return None
        if answer.status_code != 200 or len(answer.json()["predictions"]) != 10:
            return None
        return str(answer.json()["meta"]["variation"])

    def rpc(self) -> str | None:
        try:
            reply = self._stub.Classify(
                self._request, metadata=(("oauth_token", self._token),), timeout=10
            )
        except grpc.RpcError:
            return None
        return str(reply.meta.variation) if len(reply.predictions) == 10 else None

    def status(self) -> int:
        """HTTP status of a prediction over REST."""
        return self._session.post(
            self._url,
            params={"consumer_key": self._shown.js_key},
            json={"data": DIGIT},
            timeout=10,
        ).status_code


@dataclass
class Load:
    """Calls over both protocols, one after the other, until stopped."""

    answered: int = 0
    failures: int = 0
    longest_gap_s: float = 0.0  # without a good answer over one protocol, until the load ends
    answered_at: dict[Api, float] = field(default_factory=dict)  # monotonic, of the last good one

    def recovered_since(self, moment: float) -> bool:
        """Whether both protocols have had a good answer after `moment`."""
        return all(self.answered_at.get(api, 0.0) > moment for api in Api)


@contextmanager
def load(stack: StackUnderTest) -> Iterator[Load]:
    """Call all the time, for the time of the block."""
    seen, done, counting = Load(), threading.Event(), threading.Lock()

    def call(caller: Caller, api: Api) -> None:
        last = time.monotonic()
        while not done.is_set():
            good = caller.variation(api) is not None
            now = time.monotonic()
            with counting:
                seen.longest_gap_s = max(seen.longest_gap_s, now - last)
                if good:
                    seen.answered += 1
                    seen.answered_at[api] = last = now
                else:
                    seen.failures += 1
            done.wait(0.002)

    with ExitStack() as callers:
        threads = [
            threading.Thread(target=call, args=(callers.enter_context(stack.caller()), api))
            for api in Api
        ]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            done.set()
            for thread in threads:
                thread.join()
