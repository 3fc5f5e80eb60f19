"""Runs the rounds: one server at a time, with the raw model before and after it."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from bench import load, null_upstream, raw_model, server_metrics
from bench.cases import Case, Form, ServerKind, Way, interleaved
from bench.checking import check, wait_until_ready
from bench.errors import BenchError
from bench.gateway import Gateway, gateway
from bench.peers import Peer
from bench.processes import Cores, cpu_s, cpu_s_of_children, cpu_s_of_threads, worker_memory
from bench.requesting import MODEL, Digits, RequestSet, ours, ours_v2
from bench.servers import HOST, Plan, Ports, Running, our_plan, peer_plan, running
from bench.summary import cost_in_batches, ratio

WARM_UP_S = 1
GATEWAY_PATIENCE_S = 15.0
ENVOY_WORKERS = "wrk:"  # prefix of Envoy's worker threads
NULL_DIGIT = 3  # the prediction of null_engine/null_predictor.py


@dataclass(frozen=True)
class Settings:
    """The settings of a run."""

    model: Path
    engine: str
    cases: tuple[Case, ...]
    rounds: int
    seconds: int
    peers: tuple[Peer, ...] = ()
    own_load: bool = False


class Bench:
    """One run of the benchmark; `document` always holds the results so far."""

    def __init__(
        self,
        settings: Settings,
        cores: Cores,
        free_ports: Sequence[int],
        tell: Callable[[str], None],
    ) -> None:
        """Starts nothing.

        Args:
            settings: The settings.
            cores: The cores of each role.
            free_ports: Eleven free ports.
            tell: Receives progress messages.
        """
        self._settings = settings
        self._cores = cores
        self._ports = Ports(*free_ports[:3])
        self._gateway_ports = list(free_ports[3:7])
        self._own_gateway_ports = list(free_ports[7:11])
        self._tell = tell
        self._digits = Digits.of_model(settings.model)
        self._peers = {peer.name: peer for peer in settings.peers}
        self._gateway: Gateway | None = None
        self._done = 0
        self._raw_ms = 0.0  # latest raw cost of a batch of one
        self._saved: dict[int, float] = {}  # this round's cost per image relative to it, by batch
        self.document: dict[str, Any] = {
            "raw": [],
            "raw_on_cores": [],
            "samples": [],
            "servers": [],
        }

    def run(self, after_round: Callable[[], None]) -> None:
        """Measure all rounds; call `after_round` after each.

        Raises:
            BenchError: The run cannot continue.
        """
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            if any(case.gateway and not case.server.upstream for case in self._settings.cases):
                self._gateway = stack.enter_context(
                    gateway(self._gateway_ports, self._ports, self._cores.gateway)
                )
            for number in range(self._settings.rounds):
                self._raw_of_round(number)
                if any(case.server.shared for case in self._settings.cases):
                    self._raw_on_cores(number)
                for kind, cases in interleaved(self._settings.cases, number):
                    self._server(number, kind, cases)
                after_round()

    def _raw_of_round(self, number: int) -> None:
        """Measure the raw model at every batch size."""
        costs = self._raw(number, raw_model.BATCHES)
        self._saved = {batch: cost / costs[1] for batch, cost in costs.items()}

    def _raw(self, number: int, batches: Sequence[int] = raw_model.AROUND) -> dict[int, float]:
        """Measure the raw model; CPU milliseconds per image by batch size."""
        half = max(0.5, self._settings.seconds / 2)
        model, engine = self._settings.model, self._settings.engine
        (results,) = raw_model.run(model, engine, half, batches, sorted(self._cores.server))
        self.document["raw"] += [{"round": number, **result} for result in results]
        costs = {int(result["batch"]): float(result["cpu_ms"]) for result in results}
        self._raw_ms = costs[1]
        self._tell(f"round {number + 1}, raw model: {self._raw_ms:.3f} CPU ms per image")
        return costs

    def _raw_on_cores(self, number: int) -> None:
        """Measure the raw model's speedup on two cores, an upper bound for servers."""
        one = min(self._cores.server)
        for cores in ([one], [one, *(self._cores.two_workers - {one})]):
            half = max(0.5, self._settings.seconds / 2)
            model, engine = self._settings.model, self._settings.engine
            results = raw_model.run(model, engine, half, raw_model.ON_CORES, cores)
            for of_batch in zip(*results, strict=True):
                self.document["raw_on_cores"].append(
                    {
                        "round": number,
                        "cores": len(cores),
                        "batch": of_batch[0]["batch"],
                        "per_s": sum(result["per_s"] for result in of_batch),
                        "cpu_ms": mean(result["cpu_ms"] for result in of_batch),
                    }
                )

    def _places(self, kind: ServerKind) -> tuple[frozenset[int], frozenset[int]]:
        """The cores of the server and of the client."""
        cores = self._cores
        if kind.shared:
            both = cores.server if kind.workers == 1 else cores.two_workers
            return both, both
        if kind.workers > 1:
            return cores.two_workers, cores.client_of_two
        return cores.server, cores.client

    def _server(self, number: int, kind: ServerKind, cases: Sequence[Case]) -> None:
        """Start a server and measure its cases, then the raw model again."""
        before = self._raw_ms
        cores, _ = self._places(kind)
        log = self._folder / f"{kind.name}.log"
        samples: list[dict[str, Any]] = []
        try:
            request_set = self._request_set(replace(cases[0], gateway=False))
            plan = self._plan(kind, request_set)
            with (
                running(kind.name, plan, request_set, cores, log) as server,
                self._gateway_of(kind, cores),
            ):
                self._cases(cases, server, samples)
                started = {"server": kind.name, "cold_start_s": server.cold_start_s}
                self.document["servers"].append(
                    {"round": number, **started, **worker_memory(server.pid)}
                )
        except BenchError as error:  # other servers may still work
            self._tell(str(error))
            samples += [_not_measured(case, str(error)) for case in cases[len(samples) :]]
        after = self._raw(number)[1]
        for sample in samples:
            if sample.get("server_cpu_ms") is not None:
                sample["ratio"] = ratio(sample["server_cpu_ms"], [before, after])
                if not (kind.null or kind.peer):
                    model_ms = cost_in_batches(sample["by_batch"], self._saved, [before, after])
                    sample |= {"model_ms": model_ms, "above_ms": sample["server_cpu_ms"] - model_ms}
        self.document["samples"] += [{"round": number, **sample} for sample in samples]

    @contextmanager
    def _gateway_of(self, kind: ServerKind, cores: frozenset[int]) -> Iterator[None]:
        """A separate gateway for cases that measure the gateway."""
        if not kind.upstream:
            yield
            return
        before = self._gateway
        try:
            with gateway(self._own_gateway_ports, self._ports, cores, kind.workers) as own:
                self._gateway = own
                yield
        finally:
            self._gateway = before

    def _cases(self, cases: Sequence[Case], server: Running, samples: list[dict[str, Any]]) -> None:
        warmed: set[tuple[Way, Form, bool]] = set()
        for case in cases:
            request_set = self._request_set(case)
            if (case.way, case.form, case.gateway) not in warmed:
                warmed.add((case.way, case.form, case.gateway))
                self._warm_up(request_set, case.server, max(other.callers for other in cases))
            samples.append(self._case(case, request_set, server))

    def _warm_up(self, request_set: RequestSet, kind: ServerKind, callers: int) -> None:
        # The gateway may still consider the previous server on this port unhealthy.
        wait_until_ready(request_set, GATEWAY_PATIENCE_S)
        self._load(request_set, kind, callers, WARM_UP_S, check(request_set))

    def _case(self, case: Case, request_set: RequestSet, server: Running) -> dict[str, Any]:
        pid, metrics_url = server.pid, server.metrics_url
        answer_bytes = check(request_set)
        counts = server_metrics.read(metrics_url) if metrics_url else server_metrics.Counts()
        envoy = self._gateway.envoy_pid if self._gateway and case.gateway else None
        spent, envoy_spent = cpu_s(pid), cpu_s(envoy) if envoy else 0.0
        by_worker = self._by_worker(case, server)
        seen = self._load(
            request_set, case.server, case.callers, self._settings.seconds, answer_bytes
        )
        spent, envoy_spent = cpu_s(pid) - spent, (cpu_s(envoy) if envoy else 0.0) - envoy_spent
        worked = [of - by_worker.get(w, 0.0) for w, of in self._by_worker(case, server).items()]
        new = (server_metrics.read(metrics_url) if metrics_url else counts).since(counts)
        failures = max(seen.failures, new.refused)
        problem = f"{failures} of {seen.requests} requests failed" if failures else ""
        per_s = seen.requests / seen.seconds
        self._done += 1
        total = self._settings.rounds * len(self._settings.cases)
        self._tell(f"[{self._done}/{total}] {case.label}: {per_s:,.0f}/s {problem}".rstrip())
        return {
            **asdict(seen),
            "case": case.name,
            "callers": case.callers,
            "problem": problem,
            "failures": failures,
            "per_s": per_s,
            "server_cpu_ms": None if case.server.upstream else spent * 1e3 / seen.requests,
            "upstream_cpu_ms": spent * 1e3 / seen.requests if case.server.upstream else None,
            "gateway_cpu_ms": envoy_spent * 1e3 / seen.requests if envoy else None,
            "busiest_worker": busiest(worked) if case.server.workers > 1 else None,
            "by_batch": {str(size): count for size, count in sorted(new.by_batch.items())},
        }

    def _by_worker(self, case: Case, server: Running) -> dict[int, float]:
        """CPU seconds per worker: the server's processes or the gateway's threads."""
        if self._gateway is not None and case.server.upstream:
            return cpu_s_of_threads(self._gateway.envoy_pid, ENVOY_WORKERS)
        return cpu_s_of_children(server.pid)

    def _load(
        self,
        request_set: RequestSet,
        kind: ServerKind,
        callers: int,
        seconds: int,
        answer_bytes: int,
    ) -> load.Load:
        tool = load.tool_for(request_set.way, self._settings.own_load)
        _, client = self._places(kind)
        return load.run(
            tool,
            request_set,
            callers,
            seconds,
            answer_bytes,
            self._folder,
            client,
            kind.load_threads,
        )

    def _request_set(self, case: Case) -> RequestSet:
        kind = case.server
        if kind.peer:
            return self._peers[kind.name].request_set(self._digits)
        answered = NULL_DIGIT if kind.null else None
        if case.gateway:
            up = self._gateway
            if up is None:
                raise BenchError(f"{case.name} has no gateway")
            port = up.grpc_port if case.way is Way.GRPC else up.rest_port
            model, js_key, token = up.model, up.js_key, up.token
        else:
            port = self._ports.grpc if case.way is Way.GRPC else self._ports.rest
            model, js_key, token = MODEL, "", ""
        if case.form is Form.OURS:
            return ours(case.way, HOST, port, self._digits, js_key, token, answered)
        return ours_v2(case.form, HOST, port, self._digits, model, token, answered)

    def _plan(self, kind: ServerKind, request_set: RequestSet) -> Plan:
        if kind.upstream:
            return null_upstream.plan(self._ports, NULL_DIGIT, kind.workers, self._folder)
        if kind.peer:
            return peer_plan(self._peers[kind.name].command, request_set.port, self._settings.model)
        return our_plan(kind, self._ports, self._settings.model, self._settings.engine)


def busiest(worked: Sequence[float]) -> float | None:
    """The busiest worker's share of all CPU time; None if there was none."""
    return max(worked) / sum(worked) if any(worked) else None


def _not_measured(case: Case, problem: str) -> dict[str, Any]:
    return {
        "case": case.name,
        "callers": case.callers,
        "problem": problem,
        "tool": "",
        "by_batch": {},
    }
