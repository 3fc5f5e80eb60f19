import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from loadtest import comparison, gate
from loadtest.__main__ import main
from loadtest.errors import SettingInvalid
from loadtest.gate import Outcome
from loadtest.series import Series

Build = Callable[..., Path]


@pytest.fixture
def build(make_run: Callable[..., Path], raw_result: Callable[..., dict[str, Any]]) -> Build:
    """A run of ten stretches, `factor` times as slow, that differ by `spread`."""

    def make(protocol: str, factor: float, spread: float = 0.0, **changes: Any) -> Path:
        blocks, every = [], []
        for number in range(10):
            series = Series()
            for us in range(1000, 1200):
                every.append(us * factor * (1 + spread * (number % 5 - 2)))
                series.record(every[-1])
            blocks.append({"number": number, "series": series.encode()})
        return make_run(protocol, raw=[raw_result(protocol, every, blocks=blocks, **changes)])

    return make


def run(*arguments: object) -> tuple[int, dict[str, Any]]:
    words = ["gate", *map(str, arguments), "--max-regression", "10%", "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, json.loads(result.output)


def test_slower_than_allowed_fails(build: Build) -> None:
    before, after = build("rest", 1.0), build("rest", 1.2)
    status, found = run(before, after)
    assert (status, found["passes"]) == (1, False)
    assert [one["outcome"] for one in found["judged"]] == [Outcome.REGRESSED] * 3
    assert found["judged"][0]["ratio"] == pytest.approx(1.2, abs=0.005)
    assert run(after, before)[0] == 0  # faster is no regression


def test_slower_within_the_limit_passes(build: Build) -> None:
    status, found = run(build("rest", 1.0), build("rest", 1.05))
    assert status == 0
    assert [one["outcome"] for one in found["judged"]] == [Outcome.KEPT] * 3


def test_what_cannot_be_told_passes_unless_strict(build: Build, make_run: Build) -> None:
    noisy = build("rest", 1.0, spread=0.2), build("rest", 1.12, spread=0.2)
    status, found = run(*noisy)
    assert status == 0
    assert Outcome.CANNOT_TELL in {one["outcome"] for one in found["judged"]}
    assert run(*noisy, "--strict")[0] == 1
    short = make_run("rest"), make_run("rest", [2000.0, 4000.0])
    status, found = run(*short)
    assert {one["outcome"] for one in found["judged"]} == {Outcome.CANNOT_TELL}
    assert found["judged"][0]["low"] is None
    assert run(*short, "--strict")[0] == 1


def test_invalid_runs_and_more_failures_break_it(build: Build) -> None:
    sound = build("rest", 1.0)
    failing = build("rest", 1.0, requests=2001, failures={"timed out": 1})
    status, found = run(sound, failing)
    assert status == 1
    assert found["broken"] == [
        "REST: the failure rate is 0.05 %, expected at most 0.00 %, as before"
    ]
    assert run(failing, sound)[0] == 0
    busy = build("rest", 1.0, cpu_s=9.9)
    status, found = run(sound, busy)
    assert status == 1
    assert found["broken"][0].startswith("REST, after: generator CPU utilization is 99 %")


def test_comparisons_are_judged_run_by_run(build: Build, tmp_path: Path) -> None:
    def benchmarked(rest: float, grpc: float) -> Path:
        runs = comparison.sources([build("rest", rest), build("grpc", grpc)])
        return comparison.compare(runs, tmp_path / "out")

    before = benchmarked(1.2, 1.0)
    status, found = run(before, benchmarked(1.2, 1.3))
    assert status == 1
    assert [(one["run"], one["outcome"]) for one in found["judged"] if one["statistic"] == "p50"]
    outcomes = {(one["run"], one["outcome"]) for one in found["judged"]}
    assert outcomes == {("REST", Outcome.KEPT), ("gRPC", Outcome.REGRESSED)}
    result = CliRunner().invoke(
        main, ["gate", str(before), str(build("rest", 1)), "--max-regression", "0.1"]
    )
    assert result.exit_code == 1
    assert "the runs of AFTER are REST, expected REST, gRPC as in BEFORE" in result.output


def test_unlike_runs_are_not_judged(make_run: Build) -> None:
    runs = [str(make_run("rest")), str(make_run("rest", settings={"users": 51}))]
    words = ["gate", *runs, "--max-regression", "10%"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "users: before 50, after 51" in result.output
    allowed = CliRunner().invoke(main, [*words, "--allow-differences"])
    assert allowed.exit_code == 0, allowed.output
    assert "Gate: passed" in allowed.output


def test_the_table_fits_eighty_columns(build: Build) -> None:
    runs = str(build("grpc", 1.0)), str(build("grpc", 1.3))
    result = CliRunner().invoke(main, ["gate", *runs, "--max-regression", "10%"])
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "Gate: failed"
    (p99,) = (line.split() for line in lines if line.startswith("  gRPC p99"))
    assert p99[-1] == "regressed"


@pytest.mark.parametrize(("text", "ratio"), [("10%", 1.1), ("0.1", 1.1), (" 0 % ", 1.0)])
def test_the_limit_is_a_share_or_per_cent(text: str, ratio: float) -> None:
    assert gate.max_ratio(text) == pytest.approx(ratio)


@pytest.mark.parametrize("text", ["ten", "-1%", "nan", "2000%", ""])
def test_another_limit_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid, match="--max-regression"):
        gate.max_ratio(text)
