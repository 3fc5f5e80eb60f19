"""What many clients cost: the arithmetic, and a run as a person starts it, as short as can be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import scale
from bench.errors import BenchError
from bench.scale_gateway import CHANGE_LIMIT_S

ROOT = Path(__file__).parents[2]


def test_clients_come_in_rising_order() -> None:
    assert scale.parse_clients("1000, 10,10000") == (10, 1000, 10000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected numbers"),
        ("ten", "'ten'"),
        ("0,10", "0, expected numbers from 1"),
        ("10,2000000", "2000000"),
        ("10,10", "expected distinct"),
    ],
)
def test_what_is_no_number_of_clients_is_named(text: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        scale.parse_clients(text)


def test_every_number_begins_a_round_and_none_is_left_out() -> None:
    rounds = [scale.rotated((10, 100, 1000), number) for number in range(6)]
    assert all(sorted(turn) == [10, 100, 1000] for turn in rounds)
    assert len({turn[0] for turn in rounds}) == 3
    assert rounds[0] != rounds[1]


def document() -> dict[str, object]:
    def load(number: int, clients: int, cost: float) -> dict[str, object]:
        return {
            "round": number,
            "clients": clients,
            "request_cpu_us": cost,
            "p99_ms": 2.0,
            "few_keys": {"request_cpu_us": cost / 2, "failures": 0},
            "failures": 0,
        }

    names = ("setup_s", "gone_s", "envoy_cpu_s", "control_cpu_s", "p99_ms_while_changing")
    change = {**dict.fromkeys(names, 0.1), "failures": 0}
    return {
        "settings": {"clients": [10, 1000]},
        "sizes": [
            {"clients": 10, "bytes": {"rest": 16_000}, "first_answer_s": 0.1},
            {"clients": 1000, "bytes": {"rest": 970_000}, "first_answer_s": 0.2},
        ],
        # The machine is twice as slow in the second round, for all alike.
        "load": [load(0, 10, 50), load(0, 1000, 55), load(1, 10, 100), load(1, 1000, 110)],
        "changes": [
            {"round": number, "clients": clients, "live_s": live, **change}
            for number in range(3)
            for clients, live in ((10, 0.3), (1000, 0.4 + number))
        ],
    }


def test_costs_are_compared_within_a_round() -> None:
    few, many = scale.summarise(document())
    assert few["request_ratio"] == {"median": 1, "low": 1, "high": 1}
    assert many["request_ratio"]["low"] == many["request_ratio"]["high"] == pytest.approx(1.1)
    assert many["request_ratio_few_keys"]["median"] == pytest.approx(1.1)
    assert many["live_s"] == {"median": 1.4, "low": 0.4, "high": 2.4}


def test_the_table_has_a_column_for_each_number_and_only_what_was_measured() -> None:
    rows = scale.table(scale.summarise(document()))
    assert rows[0] == ["", "10 clients", "1,000 clients"]
    by_title = {row[0]: row[1:] for row in rows}
    assert by_title["REST routes, MB"] == ["0.016", "0.970"]
    assert by_title["time until a new client is live on every Envoy, s"][1] == "1.40 (0.40 to 2.40)"
    assert "gRPC routes, MB" not in by_title
    assert scale.markdown(rows).count("\n") == len(rows) + 1


@pytest.mark.stack
@pytest.mark.timeout(180)
def test_a_short_run_with_two_envoys(tmp_path: Path) -> None:
    words = ("--clients", "3,120", "--rounds", "1", "--seconds", "1", "--envoys", "2")
    command = [sys.executable, "-m", "bench.scale_command", *words, "--output", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("*-scale.json")
    result = json.loads(path.read_text())
    few, many = result["summary"]
    assert (few["clients"], many["clients"]) == (3, 120)
    # What one more client adds: two keys.
    added = many["bytes"]["rest"] - few["bytes"]["rest"]
    assert 600 < added / (many["clients"] - few["clients"]) < 1200
    for line in (few, many):
        assert line["failures"] == 0
        assert 0 < line["live_s"]["median"] < CHANGE_LIMIT_S
        assert line["request_cpu_us"]["median"] > 0
        assert line["resident_mb"]["envoy"] > 30
    assert path.with_suffix(".md").read_text() in done.stdout
