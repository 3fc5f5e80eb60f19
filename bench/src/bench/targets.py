"""Performance targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving_core.model_folder import LITERT

RATIO, CPU, GATEWAY = "CPU / raw", "server CPU", "Envoy CPU"
OVER_PEERS = "throughput ratio to best peer"
MEMORY, COLD = "RSS per worker", "cold start"


@dataclass(frozen=True)
class Target:
    """An upper limit on a figure of one case."""

    what: str
    case: str
    callers: int
    figure: str
    limit: float


@dataclass(frozen=True)
class TargetResult:
    """A target and its measurement; `measured` is None if the case was not run."""

    what: str
    case: str
    callers: int | None
    limit: float
    unit: str
    measured: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a measurement."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


_OF_CASES = (
    Target(RATIO, "grpc", 1, "ratio", 1.7),
    Target(RATIO, "grpc", 8, "ratio", 1.35),
    Target(RATIO, "grpc", 32, "ratio", 1.2),
    Target(RATIO, "rest-post", 1, "ratio", 2.1),
    Target(RATIO, "rest-post", 8, "ratio", 1.7),
    Target(RATIO, "rest-post", 32, "ratio", 1.45),
    Target(RATIO, "rest-jsonp", 1, "ratio", 2.3),
    Target(RATIO, "rest-jsonp", 8, "ratio", 1.9),
    Target(RATIO, "rest-jsonp", 32, "ratio", 1.6),
    Target(CPU, "null-grpc", 8, "server_cpu_ms", 0.30),
    Target(CPU, "null-rest-post", 8, "server_cpu_ms", 0.38),
    Target(GATEWAY, "grpc-gateway", 8, "gateway_cpu_ms", 0.17),
    Target(GATEWAY, "rest-post-gateway", 8, "gateway_cpu_ms", 0.17),
    Target(GATEWAY, "rest-jsonp-gateway", 8, "gateway_cpu_ms", 0.17),
)
TIMES = "\N{MULTIPLICATION SIGN}"
_UNITS = {"ratio": TIMES, "server_cpu_ms": "ms", "gateway_cpu_ms": "ms"}
_GATEWAY_ADDS_MS = 0.25  # at p50 with one connection; with more, queueing dominates
_RESIDENT_MB = 120.0
_COLD_START_S = 1.5
_TWO_WORKERS = 1.8
# Our throughput / that of the best of these peers, by connections; null- variants excluded.
_TRITON, _OTHERS, _MOSEC = {8: 1.3, 32: 1.3}, {8: 1.5, 32: 1.5}, {8: 1.1, 32: 1.1}
_SIDE_BY_SIDE: tuple[tuple[str, tuple[str, ...], Mapping[int, float]], ...] = (
    ("grpc-v2", ("triton-grpc",), _TRITON),
    ("grpc-v2", ("mlserver-grpc",), _OTHERS),
    ("grpc-v2", ("kserve-grpc",), _OTHERS),
    ("grpc-v2", ("grpcio",), {8: 1.6, 32: 2.0}),
    ("rest-v2", ("triton-rest",), _TRITON),
    ("rest-v2", ("mlserver-rest", "mlserver-rest-1", "mlserver-rest-32"), _OTHERS),
    ("rest-v2", ("kserve-v2",), _OTHERS),
    ("rest-v2", ("mosec-v2", "mosec-v2-1", "mosec-v2-32"), _MOSEC),
    ("rest-v2-binary", ("triton-rest-binary",), _TRITON),
    ("rest-v2-binary", ("kserve-v2-binary",), _OTHERS),
    ("rest-v2-binary", ("mosec-v2-binary", "mosec-v2-binary-1", "mosec-v2-binary-32"), _MOSEC),
    ("rest-post", ("kserve-rest",), {8: 1.4, 32: 1.8}),
    ("rest-post", ("mosec", "mosec-1", "mosec-32"), {8: 1.1, 32: 1.3}),
)


def evaluate(summary: Mapping[str, Any]) -> list[TargetResult]:
    """Every target with its measurement from a summary."""
    found = {(case["case"], case["callers"]): case for case in summary["cases"] if case["valid"]}

    def figure(case: str, callers: int, name: str) -> float | None:
        spread = found.get((case, callers), {}).get(name)
        return None if spread is None else float(spread.median)

    rows = [
        TargetResult(
            target.what,
            target.case,
            target.callers,
            target.limit,
            _UNITS[target.figure],
            figure(target.case, target.callers, target.figure),
        )
        for target in _OF_CASES
    ]
    for case in ("grpc", "rest-post", "rest-jsonp"):
        direct, through = (figure(name, 1, "p50_ms") for name in (case, f"{case}-gateway"))
        added = None if direct is None or through is None else through - direct
        rows.append(TargetResult("gateway latency at p50", case, 1, _GATEWAY_ADDS_MS, "ms", added))
    # TensorFlow alone takes 600 MB more, so other engines have no target.
    for server in ("grpc", "rest") if summary["engine"] == LITERT else ():
        figures = summary["servers"].get(server, {})
        resident, cold = (figures.get(name) for name in ("rss_mb", "cold_start_s"))
        rows.append(
            TargetResult(MEMORY, server, None, _RESIDENT_MB, "MB", resident and resident.median)
        )
        rows.append(TargetResult(COLD, server, None, _COLD_START_S, "s", cold and cold.median))
    gains = {line["name"]: line["gain"] for line in summary["scaling"]}
    for server in ("grpc", "rest"):
        gain = gains.get(server)
        of = f"{server}-on-2-cores / {server}-on-1-core"
        rows.append(
            TargetResult(
                "speedup of 2 workers",
                of,
                None,
                _TWO_WORKERS,
                TIMES,
                gain and gain.median,
                at_least=True,
            )
        )
    return rows + _over_peers(summary)


def _over_peers(summary: Mapping[str, Any]) -> list[TargetResult]:
    """Targets against the peers in the run; not measured if one of them has no valid figure."""
    there = {(case["case"], case["callers"]) for case in summary["cases"]}
    gains = {
        (line["case"], line["peer"], line["callers"]): line["gain"].median
        for line in summary["compared"]
        if line["gain"]
    }
    rows = []
    for ours, others, limits in _SIDE_BY_SIDE:
        for callers, limit in limits.items():
            over = {
                name: gains.get((ours, name, callers))
                for name in others
                if (name, callers) in there
            }
            if not over:
                continue
            known = {name: gain for name, gain in over.items() if gain is not None}
            best = min(known or over, key=lambda name: known.get(name, 0.0))
            gain = known[best] if len(known) == len(over) else None
            what = f"{ours} / {best}"
            rows.append(TargetResult(OVER_PEERS, what, callers, limit, TIMES, gain, at_least=True))
    return rows
