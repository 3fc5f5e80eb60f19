"""Server metrics, scraped from /metrics before and after a run.

They check the load test's own figures: Server-Timing is more detailed, but the load test collects
it. Two independent counts that agree support each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from loadtest.errors import SettingInvalid
from loadtest.series import Series
from monitoring.histograms import quantile
from monitoring.metrics import PROCESS_CPU, REQUEST_DURATION

TIMEOUT_S = 5.0
P99_WITHIN = 0.05


@dataclass(frozen=True)
class Scrape:
    """The metrics of one protocol, summed over all servers.

    Attributes:
        count: Completed predictions.
        buckets: Cumulative counts by upper bound in seconds.
        cpu_s: CPU time of the processes; None if not exported.
    """

    count: float = 0.0
    buckets: dict[str, float] = field(default_factory=dict)
    cpu_s: float | None = None


@dataclass(frozen=True)
class Reading:
    """Both scrapes of a run, or why they are missing."""

    before: Scrape | None = None
    after: Scrape | None = None
    missing_because: str | None = None

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Reading:
        """The inverse of `document`."""
        before, after = (
            None if document[name] is None else Scrape(**document[name])
            for name in ("before", "after")
        )
        return cls(before, after, document["missing_because"])


def urls(source: str, protocol: str) -> list[str]:
    """The /metrics URLs of the servers of `protocol`.

    Args:
        source: Comma-separated URLs, or a Prometheus file_sd file.
        protocol: Targets of a file with another protocol label are skipped.

    Raises:
        SettingInvalid: `source` is neither.
    """
    if source.startswith(("http://", "https://")):
        return [url.strip() for url in source.split(",") if url.strip()]
    try:
        groups = json.loads(Path(source).read_text(encoding="utf-8"))
        return [
            f"http://{target}/metrics"
            for group in groups
            if group.get("labels", {}).get("protocol", protocol) == protocol
            for target in group["targets"]
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingInvalid(
            f'--server-metrics is "{source}", expected comma-separated URLs or a Prometheus '
            f"file_sd JSON file: {error!r}"
        ) from None


def scrape(pages: Iterable[str], protocol: str) -> Scrape:
    """Scrape the pages once and sum them.

    Raises:
        OSError: A page is not readable.
        ValueError: A page is not in the Prometheus text format.
    """
    texts = []
    with requests.Session() as session:
        session.trust_env = False
        for url in pages:
            response = session.get(url, timeout=TIMEOUT_S)
            response.raise_for_status()
            texts.append(response.text)
    return aggregate(texts, protocol)


def aggregate(texts: Iterable[str], protocol: str) -> Scrape:
    """Sum the metrics of several servers."""
    count = 0.0
    buckets: dict[str, float] = {}
    cpu: list[float] = []
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("protocol") != protocol:
                    continue
                if sample.name == f"{REQUEST_DURATION}_count":
                    count += sample.value
                elif sample.name == f"{REQUEST_DURATION}_bucket":
                    bound = sample.labels["le"]
                    buckets[bound] = buckets.get(bound, 0.0) + sample.value
                elif sample.name == f"{PROCESS_CPU}_total":
                    cpu.append(sample.value)
    return Scrape(count, buckets, sum(cpu) if cpu else None)


def figures(reading: Reading, answers: Series) -> dict[str, Any]:
    """Server metrics of a run beside the values of its responses.

    Args:
        reading: Both scrapes.
        answers: The server latency of every response, including warm-up.

    Returns:
        `count` and `answers` (predictions by either), `p99_ms` with its bucket `p99_bucket_ms`,
        `answers_p99_ms`, `cpu_ms` (server CPU time per prediction), and `missing_because`; if that
        is set, all others are None.
    """
    found: dict[str, Any] = dict.fromkeys(
        (
            *("count", "answers", "p99_ms", "p99_bucket_ms", "answers_p99_ms", "cpu_ms"),
            "missing_because",
        )
    )
    before, after = reading.before, reading.after
    if before is None or after is None:
        return {**found, "missing_because": reading.missing_because}
    count = after.count - before.count
    buckets = {le: n - before.buckets.get(le, 0.0) for le, n in after.buckets.items()}
    if count < 0 or min(buckets.values(), default=0) < 0:
        return {**found, "missing_because": "a server restarted during the run"}
    cpu_s = None
    if after.cpu_s is not None and before.cpu_s is not None:
        cpu_s = after.cpu_s - before.cpu_s
        if cpu_s < 0:
            return {**found, "missing_because": "a server restarted during the run"}
    p99 = quantile(buckets, 0.99)
    found["count"], found["answers"] = int(count), answers.count
    found["p99_ms"] = None if p99 is None else round(p99.s * 1000, 3)
    found["p99_bucket_ms"] = None if p99 is None else [round(s * 1000, 3) for s in p99.bucket_s]
    found["answers_p99_ms"] = answers.percentile_ms(99)
    found["cpu_ms"] = round(cpu_s / count * 1000, 4) if count and cpu_s is not None else None
    return found


def disagreements(found: Mapping[str, Any]) -> list[str]:
    """Where server metrics and responses disagree; see `figures`."""
    if found["missing_because"]:
        return [f"server metrics are missing: {found['missing_because']}"]
    if found["count"] is None:
        return []
    texts = []
    if found["count"] != found["answers"]:
        texts.append(
            f"predictions are {found['count']:,} by server metrics, expected the "
            f"{found['answers']:,} of the responses; another client was active or responses "
            "were lost"
        )
    ours, theirs = found["answers_p99_ms"], found["p99_ms"]
    # A histogram cannot resolve within a bucket.
    low, high = found["p99_bucket_ms"] or (0, math.inf)
    if ours and theirs and abs(theirs / ours - 1) > P99_WITHIN and not low <= ours <= high:
        texts.append(
            f"server latency p99 is {theirs:.3f} ms by server metrics, expected the {ours:.3f} ms "
            f"of the responses within {P99_WITHIN * 100:g} %"
        )
    return texts
