"""Server metrics before and after a case."""

from collections import Counter
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from deploy.probes import loopback_session
from monitoring.metrics import BATCH_SIZE, REQUESTS

# Cancelled: a load generator disconnects at its end with requests in flight.
GOOD_CODES = ("200", "OK", "CANCELLED")
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Counts:
    """Predictions by batch size, and failed requests."""

    by_batch: Counter[int] = field(default_factory=Counter)
    refused: int = 0

    def since(self, before: "Counts") -> "Counts":
        """The increase since `before`."""
        return Counts(self.by_batch - before.by_batch, self.refused - before.refused)


def read(url: str) -> Counts:
    """Scrape a server's metrics."""
    with loopback_session() as session:
        return parse(session.get(url, timeout=_TIMEOUT_S).text)


def parse(text: str) -> Counts:
    """Parse the Prometheus text format.

    Batch sizes are the upper bounds of histogram buckets: 8 stands for 5 to 8.
    """
    cumulative: Counter[float] = Counter()
    refused = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{BATCH_SIZE}_bucket":
                cumulative[float(sample.labels["le"])] += int(sample.value)
            elif sample.name == f"{REQUESTS}_total" and sample.labels["code"] not in GOOD_CODES:
                refused += int(sample.value)
    by_batch: Counter[int] = Counter()
    below = 0
    for bound, count in sorted(cumulative.items()):
        if count > below and bound != float("inf"):
            by_batch[int(bound)] = count - below
        below = count
    return Counts(by_batch, refused)
