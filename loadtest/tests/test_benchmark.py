import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from loadtest import comparison
from loadtest.benchmark import benchmark, interleaved
from loadtest.cli import show
from loadtest.credentials import Credentials
from loadtest.errors import SettingInvalid
from loadtest.settings import LoadTestSettings

MakeRun = Callable[..., Path]
KEYS = {"SELDON_JS_KEY": "j", "SELDON_OAUTH_KEY": "o", "SELDON_OAUTH_SECRET": "s"}


def test_both_protocols_run_interleaved_and_are_compared(make_run: MakeRun, tmp_path: Path) -> None:
    asked: list[LoadTestSettings] = []

    def run(runs: Sequence[LoadTestSettings], credentials: Credentials) -> list[Path]:
        assert credentials == Credentials("j", "o", "s")
        asked.extend(runs)
        return [make_run(one.protocol, settings=one.document()) for one in runs]

    output = tmp_path / "out"
    folder = benchmark(
        "deep_mnist_client",
        {"users": 7, "output": output},
        {**KEYS, "LOADTEST_SEED": "3"},
        run,
        blocks=4,
    )
    assert [settings.protocol for settings in asked] == ["rest", "grpc"]
    assert {(one.users, one.seed, one.client) for one in asked} == {(7, 3, "deep_mnist_client")}
    assert [len(one.blocks) for one in asked] == [4, 4]
    assert folder.parent == output
    verdict = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["verdicts"][0]
    assert verdict["valid"]
    assert verdict["unfair"] == []
    assert show(folder) == 0


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_abba_or_baab_and_never_overlap(seed: int) -> None:
    turns = interleaved(["rest", "grpc"], 10, 60.0, seed)
    every = sorted(
        ((block, protocol) for protocol, blocks in turns.items() for block in blocks),
        key=lambda turn: turn[0].number,
    )
    assert [block.number for block, _ in every] == list(range(20))
    for four in range(0, 20, 4):
        a, b, c, d = (protocol for _, protocol in every[four : four + 4])
        assert a == d != b == c
    for (before, _), (after, _) in pairwise(every):
        assert before.end_s < after.begin_s
    for blocks in turns.values():
        measured = sum(block.end_s - block.begin_s - block.settle_s for block in blocks)
        assert measured == pytest.approx(60)


def test_the_seed_decides_the_order() -> None:
    first = {interleaved(["rest", "grpc"], 2, 1, seed)["rest"][0].number for seed in range(20)}
    assert first == {0, 1}


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_an_odd_number_of_blocks_is_refused(blocks: int) -> None:
    with pytest.raises(SettingInvalid, match="--blocks"):
        benchmark("deep_mnist_client", {}, KEYS, runs_nothing, blocks)


def test_failed_request_is_a_failed_benchmark(make_run: MakeRun, tmp_path: Path) -> None:
    rest = make_run("rest", requests=5, failures={"timed out": 1})
    folder = comparison.compare(comparison.sources([rest, make_run("grpc")]), tmp_path / "out")
    assert show(folder) == 1


def runs_nothing(runs: Sequence[LoadTestSettings], credentials: Credentials) -> list[Path]:
    raise AssertionError("ran")


def test_wrong_setting_is_reported_before_anything_runs() -> None:
    with pytest.raises(SettingInvalid, match="--locust-clients"):
        benchmark("deep_mnist_client", {"users": 0}, KEYS, runs_nothing)
