"""Summarises the samples of all rounds: one figure per case, with its spread. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from bench.cases import COUNTERPARTS, NULL

# Figures of a case, in the order of the table.
FIGURES = (
    "per_s",
    "server_cpu_ms",
    "ratio",
    "model_ms",
    "above_ms",
    "gateway_cpu_ms",
    "p50_ms",
    "p99_ms",
    "client_busy",
    "client_cpu_ms",
    "busiest_worker",
)
RAW_FIGURES = ("per_s", "cpu_ms", "p50_ms", "p99_ms")
# Scaling cases: server and load generator on one or two cores.
ON_CORES = ("{}-on-1-core", "{}-on-2-cores")
SERVER_FIGURES = ("cold_start_s", "rss_mb", "uss_mb")


@dataclass(frozen=True)
class Spread:
    """A figure over all rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    """Median, minimum and maximum; None if empty."""
    return Spread(median(values), min(values), max(values)) if values else None


def summarise(document: Mapping[str, Any]) -> dict[str, Any]:
    """Summarise the document of bench.run.

    Rounds with failures are excluded; a case with a failure in any round is invalid.
    """
    raw = {
        f"raw-{batch}": _figures([r for r in document["raw"] if r["batch"] == batch], RAW_FIGURES)
        for batch in sorted({r["batch"] for r in document["raw"]})
    }
    cases: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for sample in document["samples"]:
        cases.setdefault((sample["case"], sample["callers"]), []).append(sample)
    servers: dict[str, list[Mapping[str, Any]]] = {}
    for started in document["servers"]:
        servers.setdefault(started["server"], []).append(started)
    figures = [_case(*key, samples) for key, samples in sorted(cases.items(), key=_by_name)]
    valid = {key: cases[key] for key in cases if not any(one["problem"] for one in cases[key])}
    return {
        "model": document["settings"]["model"],
        "engine": document["settings"]["engine"],
        "raw": raw,
        "scaling": _scaling(document),
        "cases": figures,
        "compared": _compared(document["settings"]["peers"], valid),
        "servers": {name: _figures(rows, SERVER_FIGURES) for name, rows in servers.items()},
    }


def ratio(cpu_ms: float, raw_cpu_ms: Sequence[float]) -> float:
    """A cost relative to the raw model's for one image, measured just before and after."""
    return cpu_ms / mean(raw_cpu_ms)


def cost_in_batches(
    by_batch: Mapping[str, int], saved: Mapping[int, float], raw_cpu_ms: Sequence[float]
) -> float:
    """The raw model's cost of the mean request at the batch sizes of the server.

    Args:
        by_batch: Requests by upper bound of their batch size; this underestimates the cost.
        saved: Cost per image at each batch size, relative to a batch of one.
        raw_cpu_ms: Cost of a batch of one, measured just before and after.
    """
    total = sum(by_batch.values())
    if not total:
        return mean(raw_cpu_ms)
    shares = sum(saved[int(size)] * count for size, count in by_batch.items())
    return mean(raw_cpu_ms) * shares / total


def mean_batch(by_batch: Mapping[str, int]) -> float | None:
    """The batch size of the mean request."""
    total = sum(by_batch.values())
    if not total:
        return None
    return sum(int(size) * count for size, count in by_batch.items()) / total


def _case(name: str, callers: int, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    problems = [sample["problem"] for sample in samples if sample["problem"]]
    good = [sample for sample in samples if not sample["problem"]]
    batches: Counter[str] = Counter()
    for sample in good:
        batches.update(sample["by_batch"])
    return {
        "case": name,
        "callers": callers,
        "rounds": len(samples),
        "valid": bool(samples) and not problems,
        "problems": list(dict.fromkeys(problems)),
        "tool": next((sample["tool"] for sample in samples if sample["tool"]), ""),
        "by_batch": dict(sorted(batches.items(), key=lambda item: int(item[0]))),
        **_figures(good, FIGURES),
    }


def _compared(
    peers: Sequence[Mapping[str, Any]],
    valid: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Compare the throughput of each peer with ours of the same format, within a round."""
    lines = []
    for peer in peers:
        counterpart = COUNTERPARTS.get(peer["form"])
        if counterpart is None:
            continue
        case = f"{NULL if peer['null'] else ''}{counterpart}"
        for name, callers in valid:
            own = valid.get((case, callers))
            if name != peer["name"] or own is None:
                continue
            other = valid[name, callers]
            lines.append(
                {
                    "case": case,
                    "peer": name,
                    "callers": callers,
                    "own": spread([one["per_s"] for one in own]),
                    "other": spread([one["per_s"] for one in other]),
                    "gain": _gain(other, own),
                }
            )
    return sorted(lines, key=lambda line: (line["case"], line["peer"], line["callers"]))


def _gain(one: Sequence[Mapping[str, Any]], two: Sequence[Mapping[str, Any]]) -> Spread | None:
    """The throughput of `two` divided by that of `one`, within a round."""
    first = {row["round"]: row["per_s"] for row in one}
    return spread([row["per_s"] / first[row["round"]] for row in two if row["round"] in first])


def _scaling(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare one core with two; speedups are within a round."""
    raw: dict[int, dict[int, list[Mapping[str, Any]]]] = {}
    for row in document["raw_on_cores"]:
        raw.setdefault(row["batch"], {1: [], 2: []})[row["cores"]].append(row)
    lines = [
        _line(f"raw, batches of {batch}", None, of[1], of[2], "cpu_ms")
        for batch, of in sorted(raw.items())
    ]
    good = [sample for sample in document["samples"] if not sample["problem"]]
    ones: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for sample in good:
        stem = sample["case"].removesuffix(ON_CORES[0].format(""))
        if stem != sample["case"]:
            ones.setdefault((stem, sample["callers"]), []).append(sample)
    for (stem, callers), one in sorted(ones.items()):
        pair = (ON_CORES[1].format(stem), 2 * callers)
        two = [sample for sample in good if (sample["case"], sample["callers"]) == pair]
        # A gateway with a null upstream.
        alone = one[0]["server_cpu_ms"] is None
        cost = "gateway_cpu_ms" if alone else "server_cpu_ms"
        lines.append(_line(stem, callers, one, two, cost))
    return lines


def _line(
    name: str,
    callers: int | None,
    one: Sequence[Mapping[str, Any]],
    two: Sequence[Mapping[str, Any]],
    cost: str,
) -> dict[str, Any]:
    figures = ("per_s", cost, "client_cpu_ms", "busiest_worker", "cores_used")
    gain = _gain(one, two)
    one, two = ([{**row, "cores_used": _cores_used(row)} for row in rows] for rows in (one, two))
    return {
        "name": name,
        "callers_per_core": callers,
        "cost": cost,
        "one": _figures(one, figures),
        "two": _figures(two, figures),
        "gain": gain,
    }


def _cores_used(row: Mapping[str, Any]) -> float:
    """Cores used: the CPU time of all processes per request, times the throughput."""
    costs = ("cpu_ms", "server_cpu_ms", "upstream_cpu_ms", "gateway_cpu_ms", "client_cpu_ms")
    cpu_ms = sum(row.get(cost) or 0.0 for cost in costs)
    return float(cpu_ms * row["per_s"] / 1e3)


def _figures(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Spread | None]:
    taken = list(rows)
    return {
        name: spread([row[name] for row in taken if row.get(name) is not None]) for name in names
    }


def _by_name(item: tuple[tuple[str, int], object]) -> tuple[str, int]:
    return item[0]
