import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest.benchmark import interleaved
from loadtest.cli import show
from loadtest.credentials import Credentials
from loadtest.errors import SettingInvalid
from loadtest.matrix import VARIANTS, matrix
from loadtest.settings import LoadTestSettings

KEYS = {
    "SELDON_JS_KEY": "js-key",
    "SELDON_OAUTH_KEY": "all-key",
    "SELDON_OAUTH_SECRET": "all-secret",
}
MakeRun = Callable[..., Path]


def test_each_way_differs_from_the_others_as_it_says(make_run: MakeRun, tmp_path: Path) -> None:
    asked: list[LoadTestSettings] = []

    def run(runs: Sequence[LoadTestSettings], credentials: Credentials) -> list[Path]:
        asked.extend(runs)
        return [make_run(one.protocol, settings=one.document()) for one in runs]

    options = {"output": tmp_path / "out", "seed": 5}
    folder = matrix("c", list(VARIANTS), options, KEYS, run, blocks=2)
    assert len({one.document()["command"] for one in asked}) == len(VARIANTS)
    assert {(one.users, one.seed, len(one.blocks)) for one in asked} == {(50, 5, 2)}
    by_key = dict(zip(VARIANTS, asked, strict=True))
    assert by_key["get"].rest_form == "jsonp-get"
    assert by_key["post-2"].number_decimals == "2"
    assert by_key["grpc-per-call"].connections == "per-call"
    assert by_key["grpc-images"].images == by_key["post-images"].images == 8
    document = json.loads((folder / "summary.json").read_text())
    assert [one["a"] for one in document["verdicts"]] == ["get"] * (len(VARIANTS) - 1)
    assert all(one["unfair"] == [] for one in document["verdicts"])
    assert folder.name.endswith("-matrix")
    console = Console(width=80, record=True)
    assert show(folder, console) == 0
    text = console.export_text()
    (table,) = re.findall(r"client side.*?Mean ratio", text, re.DOTALL)
    assert "…" not in table  # nothing is cut off
    for way in VARIANTS.values():
        assert way.name in table


@pytest.mark.parametrize("keys", [["get"], ["get", "get"], ["get", "soap"]])
def test_ways_that_are_none_are_refused(keys: list[str]) -> None:
    with pytest.raises(SettingInvalid, match="--ways"):
        matrix("c", keys, {}, KEYS)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_several_variants_run_forwards_then_backwards(seed: int) -> None:
    keys = ["a", "b", "c", "d"]
    turns = interleaved(keys, 4, 40.0, seed)
    every = sorted(
        ((block, key) for key, blocks in turns.items() for block in blocks),
        key=lambda turn: turn[0].number,
    )
    order = [key for _, key in every]
    assert order[:4] == order[4:8][::-1]
    assert order[8:12] == order[12:][::-1]
    assert sorted(order[:4]) == sorted(order[8:12]) == keys
    for (before, _), (after, _) in pairwise(every):
        assert before.end_s < after.begin_s


@pytest.mark.stack
def test_the_ways_are_measured_for_real(start_stub: Any, tmp_path: Path) -> None:
    rest, grpc = start_stub("http_stub", delay_s=0.02), start_stub("grpc_stub")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest", "matrix", "--client", "c", "--blocks", "4"),
            *("--ways", "get,post-2,post-images,grpc-images,grpc-per-call"),
            *("--host", f"http://127.0.0.1:{rest.port}"),
            *("--seldon-grpc-endpoint", f"127.0.0.1:{grpc.port}"),
            *("--locust-clients", "4", "--locust-hatch-rate", "100"),
            *("--duration", "1", "--warmup", "0.5", "--wait-ms", "10", "20"),
        ],
        cwd=tmp_path,
        env={**os.environ, **KEYS},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())
    runs = document["runs"]
    assert {run["failures"] for run in runs.values()} == {0}
    for key in ("post-images", "grpc-images"):
        digits = runs[key]["digits"]
        assert digits["scored"] == 8 * runs[key]["requests"]
        assert digits["accuracy"] == 1
    verdicts = {one["b"]: one for one in document["verdicts"]}
    assert verdicts["grpc-images"]["slower"] == "get"
    assert verdicts["grpc-images"]["intervals"]["mean"][0] > 1
    assert "REST, JSONP GET is" in done.stdout
