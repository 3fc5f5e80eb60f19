"""Which protocol was slower, by how much, and what the answer does not tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtest.difference import B_SLOWER, NO_DIFFERENCE, Difference, Estimate

EQUAL_WITHIN = 0.005  # closer than this, half a percent, no run of a minute tells them apart

TAIL_DECIDES = 1.2  # how far apart the ratios at the mean and at the median may be unremarked

STATISTICS = {"mean": "on average", "p50": "at the median", "p99": "at the 99th percentile"}

# What makes a run a REST or a gRPC one, or has no part in its figures.
BY_NATURE = {"protocol", "test_type", "endpoint", "command"}


def compare(
    rest: Mapping[str, Any], grpc: Mapping[str, Any], between: Difference | None = None
) -> dict[str, Any]:
    """The verdict on two summaries, from the client side's latencies.

    Args:
        rest: A REST run's figures.
        grpc: A gRPC run's.
        between: The difference of REST (a) from gRPC (b); None where they did not take turns.

    Returns:
        `sentence` (the verdict), `slower` ("rest", "grpc", or None of equals), `percent`,
        `ratios` and `sentences` at the mean, p50 and p99 (REST over gRPC), `unfair` (what differed
        between the runs and should not have), `invalid_because` and `caveats`. With a difference
        `slower` is None where none is seen, and `intervals` gives those of the ratios.
    """
    ratios = {
        name: between.estimates[name].ratio if between else _ratio(rest, grpc, name)
        for name in STATISTICS
    }
    sentences = {
        statistic: sentence_of(between.estimates[statistic], STATISTICS[statistic])
        if between
        else sentence(ratio, STATISTICS[statistic])
        for statistic, ratio in ratios.items()
    }
    invalid = [
        f"{name}: {reason}"
        for name, run in (("REST", rest), ("gRPC", grpc))
        for reason in run["invalid_because"]
    ]
    mean = ratios["mean"]
    equal = mean is not None and is_equal(mean)
    if between:
        equal = between.estimates["mean"].outcome == NO_DIFFERENCE
    return {
        "sentence": sentences["mean"],
        "slower": None if mean is None or equal else "rest" if mean > 1 else "grpc",
        "percent": None if mean is None else 0.0 if equal else round(excess_percent(mean), 3),
        "intervals": _intervals(between),
        "ratios": {name: None if r is None else round(r, 5) for name, r in ratios.items()},
        "sentences": sentences,
        "valid": not invalid,
        "invalid_because": invalid,
        "unfair": differences(rest, grpc),
        "caveats": caveats(rest, grpc, between),
    }


def sentence_of(estimate: Estimate, where: str) -> str:
    """What is between REST (a) and gRPC (b), in words, with how sure that is."""
    low, high = estimate.ratio_interval.low, estimate.ratio_interval.high
    if estimate.outcome == NO_DIFFERENCE:
        if estimate.ratio < 1:
            low, high = 1 / high, 1 / low
        interval = f"(95 % interval {_signed(low)} to {_signed(high)} %)"
        said = sentence(estimate.ratio, where)
        if is_equal(estimate.ratio):
            return f"{said} {interval}"
        return f"{said}, but no difference is seen: chance alone makes as much {interval}"
    slower, faster = "REST", "gRPC"
    if estimate.outcome == B_SLOWER:
        slower, faster = faster, slower
        low, high = 1 / high, 1 / low
    percent = _percent(excess_percent(estimate.ratio))
    return (
        f"{slower} is {percent} % slower than {faster} {where} (95 % interval "
        f"{_percent((low - 1) * 100)} to {_percent((high - 1) * 100)} %)"
    )


def _signed(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f}".replace("-", "\N{MINUS SIGN}")


def _intervals(found: Difference | None) -> dict[str, list[float]] | None:
    if found is None:
        return None
    return {
        name: [round(one.ratio_interval.low, 5), round(one.ratio_interval.high, 5)]
        for name, one in found.estimates.items()
    }


def sentence(ratio: float | None, where: str) -> str:
    """REST's latency over gRPC's, in words."""
    if ratio is None:
        return "REST and gRPC cannot be compared: one of them has no latency"
    if is_equal(ratio):
        return f"REST and gRPC are equal {where}"
    slower, faster = ("REST", "gRPC") if ratio > 1 else ("gRPC", "REST")
    return f"{slower} is {_percent(excess_percent(ratio))} % slower than {faster} {where}"


def _percent(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def excess_percent(ratio: float) -> float:
    """By how much the slower exceeds the faster."""
    return (max(ratio, 1 / ratio) - 1) * 100


def is_equal(ratio: float) -> bool:
    return max(ratio, 1 / ratio) - 1 <= EQUAL_WITHIN


def differences(rest: Mapping[str, Any], grpc: Mapping[str, Any]) -> list[str]:
    """What differed between the two runs besides the protocol."""
    found = _differing(rest["settings"], grpc["settings"], BY_NATURE)
    found += _differing(rest["machine"], grpc["machine"], {"packages"}, "machine ")
    return found + _differing(
        rest["machine"].get("packages", {}),
        grpc["machine"].get("packages", {}),
        set(),
        "version of ",
    )


def caveats(
    rest: Mapping[str, Any], grpc: Mapping[str, Any], between: Difference | None = None
) -> list[str]:
    """What a reader of the verdict should know, in plain sentences."""
    if between:
        found = [
            f"REST and gRPC took turns, {between.blocks[0]} each. The intervals are from a "
            "bootstrap over pairs of neighbouring turns, and hold together for the mean, the "
            "median and the 99th percentile. A random REST request took longer than a random gRPC "
            f"request in {between.slower_probability * 100:.0f} of 100 pairs: a "
            f"{between.effect} effect."
        ]
    else:
        found = ["The runs did not take turns: there is no confidence interval."]
    mean, median = _ratio(rest, grpc, "mean"), _ratio(rest, grpc, "p50")
    if mean and median and max(mean / median, median / mean) > TAIL_DECIDES:
        found.append(
            "A few slow requests weigh much in the means: the median tells what most requests see. "
            "Other work on the machine shows up in the same way; run it again when idle."
        )
    here = [_is_loopback(str(run["settings"].get("endpoint", ""))) for run in (rest, grpc)]
    if all(here):
        found.append(
            "The load generator and the servers share this machine: they take processor time from "
            "each other, and there is no network between them."
        )
    else:
        found.append(
            "The servers may run elsewhere: the machine and the versions named here are the "
            "load generator's."
        )
    found.append(
        "REST is the original guide's request: a JSONP GET with the 784 numbers of a digit as text "
        "in its URL. gRPC sends them packed. Other REST requests cost otherwise."
    )
    found.append(
        "What each client costs is part of its side. Both send and read in native threads, each "
        "with a connection of its own; `make calibrate` says how much that is."
    )
    if "per-call" in (rest["settings"].get("connections"), grpc["settings"].get("connections")):
        found.append(
            "Connections are made per call, as the original's gRPC test did: setting one up is "
            "part of the latency."
        )
    if "random" in (rest["settings"].get("payload"), grpc["settings"].get("payload")):
        found.append(
            "The payload is random numbers, as the original's: two decimals each in REST, all "
            "digits in gRPC."
        )
    found.append(
        "A user waits for an answer before the next request (closed loop): a server that stalls "
        "gets fewer requests meanwhile, so the highest percentiles are rather too low."
    )
    return found


def words(value: Any) -> str:
    """A setting or a fact of a machine as a person writes it."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list():
            return " to ".join(words(part) for part in value)
        case dict():
            return ", ".join(f"{key} {words(one)}" for key, one in value.items())
        case _:
            return str(value)


def _ratio(rest: Mapping[str, Any], grpc: Mapping[str, Any], statistic: str) -> float | None:
    above = rest["latency_ms"]["client"][statistic]
    below = grpc["latency_ms"]["client"][statistic]
    return above / below if above and below else None


def _differing(
    rest: Mapping[str, Any], grpc: Mapping[str, Any], besides: set[str], what: str = ""
) -> list[str]:
    return [
        f"{what}{name}: REST {words(rest.get(name))}, gRPC {words(grpc.get(name))}"
        for name in sorted({*rest, *grpc} - besides)
        if rest.get(name) != grpc.get(name)
    ]


def _is_loopback(endpoint: str) -> bool:
    host = endpoint.rpartition("//")[2].partition("/")[0]
    return host.startswith(("127.", "localhost", "[::1]"))
