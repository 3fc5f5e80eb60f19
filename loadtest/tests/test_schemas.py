"""What results say is what the schemas say, for runs by hand and for those of Locust."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from loadtest import comparison, summary
from loadtest.capacity import Probe, conclude, next_step
from loadtest.settings import LoadTestSettings
from loadtest.slo import Slo


@pytest.fixture
def validate() -> Callable[[str, Any], None]:
    """Fail unless a document is as the schema of that name says."""

    def check(name: str, document: Any) -> None:
        text = (resources.files("loadtest") / "schemas" / f"{name}.schema.json").read_text()
        schema = json.loads(text)
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(document)

    return check


def written(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def full_settings(protocol: str) -> dict[str, Any]:
    test_type = {"rest": "js-predict", "grpc": "grpc-predict"}[protocol]
    return LoadTestSettings("c", test_type).document()


@pytest.mark.stack
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_run(
    protocol: str,
    launch: Any,
    start_queue: Any,
    validate: Any,
) -> None:
    stub = start_queue("--service-ms", "1")
    done = launch(
        protocol,
        *("--test-type", {"rest": "js-predict", "grpc": "grpc-predict"}[protocol]),
        *("--duration", "2", "--rate", "40"),
        host=stub.port,
        grpc=stub.grpc_port,
    )
    validate("summary", done.summary)
    with pytest.raises(jsonschema.ValidationError):
        validate("summary", {**done.summary, "requests": -1})
    with pytest.raises(jsonschema.ValidationError):
        validate("summary", {**done.summary, "surprise": 1})


def test_runs_without_anything(make_run: Any, validate: Any) -> None:
    without: list[dict[str, Any]] = [{"raw": []}, {"digits": None, "rows": [], "rows_of": 0}]
    for changes in without:
        folder = make_run("rest", settings=full_settings("rest"), **changes)
        summary.write_report(folder)
        validate("summary", written(folder))


def test_a_comparison(make_run: Any, validate: Any, tmp_path: Path) -> None:
    runs = [make_run(name, settings=full_settings(name)) for name in ("rest", "grpc")]
    folder = comparison.compare(comparison.sources(runs), tmp_path / "out")
    validate("summary", written(folder))


def test_a_capacity(validate: Any) -> None:
    slo = Slo.parse("p99<20ms")
    probes: list[Probe] = []
    while isinstance(rate := next_step(probes, slo, 50), float):
        ms = 5.0 if rate < 300 else 50.0
        latency = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "p99.9", "max"), ms)
        probes.append(Probe(rate, rate, rate, latency, 1000, server_cpu_ms=1.0))
    document = {"rest": conclude(probes, slo, rate).document()}
    validate("capacity", json.loads(json.dumps(document)))
