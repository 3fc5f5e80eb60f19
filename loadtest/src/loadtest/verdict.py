"""The verdict on two runs: which is slower, by how much, and the limitations. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from loadtest.difference import NO_DIFFERENCE, STATISTICS, Difference, Interval
from loadtest.payloads import SELDON

EQUAL_WITHIN = 0.005  # a run of a minute cannot resolve a smaller difference

TAIL_DECIDES = 1.2  # ratio of the mean to the median above which a caveat is added

# Settings that differ by protocol or have no effect; the host is compared separately.
BY_NATURE = {"protocol", "test_type", "endpoint", "command", "group"}


@dataclass(frozen=True)
class Side:
    """One run of a comparison.

    Attributes:
        key: The name of its folder.
        name: Its display name.
        figures: Its summary.
    """

    key: str
    name: str
    figures: Mapping[str, Any]


def compare(
    a: Side, b: Side, between: Difference | None = None, varied: Collection[str] = ()
) -> dict[str, Any]:
    """The verdict on two runs, from their request latencies.

    Args:
        a: One run.
        b: The other.
        between: The estimated difference; None if there are too few blocks.
        varied: Settings that differ on purpose.

    Returns:
        `sentence` (the verdict), `slower` (a side's key, None without a significant difference),
        `percent`, `ratios` (a / b), `intervals` and `sentences` of the mean, p50 and p99, `unfair`
        (unequal settings), `invalid_because` and `caveats`.
    """
    ratios = {
        name: between.estimates[name].ratio if between else _ratio(a, b, name)
        for name in STATISTICS
    }
    sentences = {
        name: sentence(
            name,
            a.name,
            b.name,
            ratio,
            between.estimates[name].ratio_interval if between else None,
        )
        for name, ratio in ratios.items()
    }
    invalid = [
        f"{side.name}: {reason}" for side in (a, b) for reason in side.figures["invalid_because"]
    ]
    mean = ratios["mean"]
    equal = mean is not None and is_equal(mean)
    if between:
        equal = between.estimates["mean"].outcome == NO_DIFFERENCE
    return {
        "a": a.key,
        "b": b.key,
        "sentence": sentences["mean"],
        "slower": None if mean is None or equal else a.key if mean > 1 else b.key,
        "percent": None if mean is None else 0.0 if equal else round(excess_percent(mean), 3),
        "intervals": _intervals(between),
        "ratios": {name: None if r is None else round(r, 5) for name, r in ratios.items()},
        "sentences": sentences,
        "valid": not invalid,
        "invalid_because": invalid,
        "unfair": differences(a, b, varied),
        "caveats": caveats(a, b, between),
    }


def sentence(
    statistic: str, a: str, b: str, ratio: float | None, interval: Interval | None = None
) -> str:
    """One statistic's verdict in words; every sentence of that kind is from here.

    Args:
        statistic: Its name, such as p99.
        a: The name of one side.
        b: The name of the other.
        ratio: a / b; None where one of them has no latency.
        interval: The ratio's confidence interval; None where there is none.
    """
    if ratio is None:
        return f"{statistic}: {a} and {b} are not comparable, one of them has no latency"
    if interval is None and is_equal(ratio):
        return f"{statistic}: {a} and {b} are equal within {EQUAL_WITHIN:.1%} (no CI)".replace(
            "%", " %"
        )
    slower, faster = (a, b) if ratio >= 1 else (b, a)
    excess = excess_percent(ratio)
    if interval is None:
        return f"{statistic}: {slower} is {_percent(excess)} % slower than {faster} (no CI)"
    low, high = interval.low, interval.high
    if ratio < 1:
        low, high = 1 / high, 1 / low
    ci = f"95 % CI {_signed((low - 1) * 100)} to {_signed((high - 1) * 100)} %"
    if low <= 1:
        return f"{statistic}: no significant difference ({slower} {_signed(excess)} %, {ci})"
    return f"{statistic}: {slower} is {_percent(excess)} % slower than {faster} ({ci})"


def _intervals(found: Difference | None) -> dict[str, list[float]] | None:
    if found is None:
        return None
    return {
        name: [round(one.ratio_interval.low, 5), round(one.ratio_interval.high, 5)]
        for name, one in found.estimates.items()
    }


def _percent(value: float) -> str:
    """A percentage to one decimal; a small one keeps a digit, and so its sign."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 0.05 or not value else f"{value:.1g}"


def _signed(percent: float) -> str:
    sign = "\N{MINUS SIGN}" if percent < 0 else "+"
    return sign + _percent(abs(percent))


def excess_percent(ratio: float) -> float:
    """How much the slower exceeds the faster, percent."""
    return (max(ratio, 1 / ratio) - 1) * 100


def is_equal(ratio: float) -> bool:
    return max(ratio, 1 / ratio) - 1 <= EQUAL_WITHIN


def differences(a: Side, b: Side, varied: Collection[str] = ()) -> list[str]:
    """Unequal settings, machines and versions, other than the protocol and `varied`."""
    one, other = a.figures, b.figures
    apart = {*BY_NATURE, *varied}
    if one["settings"].get("protocol") != other["settings"].get("protocol"):
        apart.add("rest_form")
    names = (a.name, b.name)
    hosts = [_host(str(run["settings"].get("endpoint", ""))) for run in (one, other)]
    return [
        *_differing(names, one["settings"], other["settings"], apart),
        *_differing(names, {"host": hosts[0]}, {"host": hosts[1]}),
        *_differing(names, one["machine"], other["machine"], {"packages"}, "machine "),
        *_differing(
            names,
            one["machine"].get("packages", {}),
            other["machine"].get("packages", {}),
            what="version of ",
        ),
    ]


def caveats(a: Side, b: Side, between: Difference | None = None) -> list[str]:
    """Limitations of the verdict."""
    settings = [side.figures["settings"] for side in (a, b)]
    found = [_about_interval(a, b, between)]
    mean, median = _ratio(a, b, "mean"), _ratio(a, b, "p50")
    if mean and median and max(mean / median, median / mean) > TAIL_DECIDES:
        found.append(
            "A few slow requests dominate the means; the median is that of most requests. Other "
            "work on the machine has the same effect: repeat the run on an idle machine."
        )
    if all(_is_loopback(str(one.get("endpoint", ""))) for one in settings):
        found.append(
            "The load generator and the servers share this machine: they compete for its cores, "
            "and requests cross no network."
        )
    else:
        found.append(
            "The servers may run on other machines: the machine and versions listed here are "
            "those of the load generator."
        )
    rest = [one for one in settings if one.get("protocol") == "rest"]
    seldon = rest and rest[0].get("dialect", SELDON) == SELDON
    if len(rest) == 1 and seldon and rest[0].get("rest_form") in (None, "jsonp-get"):
        found.append(
            "REST is the original guide's request: a JSONP GET with the 784 numbers of a digit as "
            "text in its URL. gRPC sends packed floats. Other REST requests have other costs."
        )
    connections = "one connection per thread"
    if any(one.get("loop") == "open" for one in settings):
        connections = "one connection per thread (REST) or 50 shared connections (gRPC)"
    found.append(
        "Request latency includes the client's own cost. Both protocols use native threads, with "
        f"{connections}; `make calibrate` measures that cost."
    )
    if any(one.get("connections") == "per-call" for one in settings):
        found.append(
            "Each request opens a connection, as in the original's gRPC test: latency includes "
            "the connection set-up."
        )
    if any(one.get("payload") == "random" for one in settings):
        found.append("The payload is random values.")
    if any(one.get("loop", "closed") == "closed" for one in settings):
        found.append(
            "The load is a closed loop: each user waits for its response, so a stalled server "
            "receives fewer requests and the highest percentiles are underestimated."
        )
    return found


def _about_interval(a: Side, b: Side, between: Difference | None) -> str:
    if between is None:
        return "No confidence interval (CI): the runs have too few blocks."
    effect = (
        f"Effect size: a random {a.name} request is slower than a random {b.name} request with "
        f"probability {between.slower_probability:.2f} ({between.effect})."
    )
    jointly = "jointly for mean, p50 and p99"
    if between.paired:
        return (
            f"{a.name} and {b.name} were interleaved in {between.blocks[0]} blocks each. The 95 % "
            f"confidence intervals (CI) are from a paired bootstrap over the blocks, {jointly}. "
            f"{effect}"
        )
    return (
        f"{a.name} and {b.name} were not interleaved. The 95 % confidence intervals (CI) are from "
        f"a bootstrap over the {between.blocks[0]} and {between.blocks[1]} blocks of the runs, "
        f"{jointly}; they exclude changes between the runs. {effect}"
    )


def display(value: Any) -> str:
    """Format a setting or a machine property."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list():
            return " to ".join(display(part) for part in value)
        case dict():
            return ", ".join(f"{key} {display(one)}" for key, one in value.items())
        case _:
            return str(value)


def _ratio(a: Side, b: Side, statistic: str) -> float | None:
    above = a.figures["latency_ms"]["client"][statistic]
    below = b.figures["latency_ms"]["client"][statistic]
    return above / below if above and below else None


def _differing(
    names: tuple[str, str],
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    besides: Collection[str] = (),
    what: str = "",
) -> list[str]:
    return [
        f"{what}{key}: {names[0]} {display(a.get(key))}, {names[1]} {display(b.get(key))}"
        for key in sorted({*a, *b} - {*besides})
        if a.get(key) != b.get(key)
    ]


def _host(endpoint: str) -> str:
    address = endpoint.rpartition("//")[2]
    return urlsplit(f"//{address}").hostname or ""


def _is_loopback(endpoint: str) -> bool:
    return _host(endpoint).startswith(("127.", "localhost", "::1"))
