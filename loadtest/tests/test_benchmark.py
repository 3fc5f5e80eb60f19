import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest import comparison
from loadtest.benchmark import benchmark
from loadtest.cli import show
from loadtest.credentials import Credentials
from loadtest.errors import PreflightFailed, SettingInvalid
from loadtest.settings import LoadTestSettings

MakeRun = Callable[..., Path]
KEYS = {"SELDON_JS_KEY": "j", "SELDON_OAUTH_KEY": "o", "SELDON_OAUTH_SECRET": "s"}


def test_runs_rest_then_grpc_alike_and_compares(make_run: MakeRun, tmp_path: Path) -> None:
    runs: list[LoadTestSettings] = []
    checked: list[str] = []

    def check(settings: LoadTestSettings, credentials: Credentials) -> None:
        assert not runs
        checked.append(settings.protocol)

    def run(settings: LoadTestSettings, credentials: Credentials) -> Path:
        assert credentials == Credentials("j", "o", "s")
        runs.append(settings)
        return make_run(settings.protocol, settings=settings.document())

    output = tmp_path / "out"
    folder = benchmark(
        "deep_mnist_client",
        {"users": 7, "output": output},
        {**KEYS, "LOADTEST_SEED": "3"},
        check,
        run,
    )
    assert checked == ["rest", "grpc"]
    assert [settings.protocol for settings in runs] == ["rest", "grpc"]
    assert {(one.users, one.seed, one.client) for one in runs} == {(7, 3, "deep_mnist_client")}
    assert folder.parent == output
    verdict = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["verdict"]
    assert verdict["sentence"] == "REST and gRPC are equal on average"
    assert verdict["valid"]
    assert verdict["unfair"] == []
    assert show(folder) == 0


def test_failed_request_is_a_failed_benchmark(make_run: MakeRun, tmp_path: Path) -> None:
    rest = make_run("rest", requests=5, failures={"timed out": 1})
    folder = comparison.compare(rest, make_run("grpc"), tmp_path / "out")
    assert show(folder) == 1


def runs_nothing(settings: LoadTestSettings, credentials: Credentials) -> Path:
    raise AssertionError("ran")


def test_wrong_setting_is_told_before_anything_runs() -> None:
    with pytest.raises(SettingInvalid, match="--locust-clients"):
        benchmark("deep_mnist_client", {"users": 0}, KEYS, run=runs_nothing)


def test_unreachable_grpc_is_told_before_rest_runs() -> None:
    def check(settings: LoadTestSettings, credentials: Credentials) -> None:
        if settings.protocol == "grpc":
            raise PreflightFailed("nothing answers")

    with pytest.raises(PreflightFailed, match="nothing answers"):
        benchmark("deep_mnist_client", {}, KEYS, check, runs_nothing)
