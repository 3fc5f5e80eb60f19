from pathlib import Path

import numpy as np
import pytest

from loadtest import arrivals
from loadtest.errors import SettingInvalid


def test_constant_arrivals_are_evenly_spaced() -> None:
    times = arrivals.schedule("constant", 4, 2.0, seed=1)
    assert times.tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]


def test_poisson_gaps_are_exponential() -> None:
    times = arrivals.schedule("poisson", 1000, 200.0, seed=3)
    gaps = np.diff(times)
    # Of 200,000 the count and both moments are within five standard errors.
    assert abs(len(times) - 200_000) < 5 * 200_000**0.5
    assert gaps.mean() == pytest.approx(0.001, rel=0.012)
    assert gaps.std() == pytest.approx(0.001, rel=0.02)
    assert (gaps >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 200


def test_the_seed_alone_decides() -> None:
    one = arrivals.schedule("poisson", 50, 10, seed=7)
    assert np.array_equal(one, arrivals.schedule("poisson", 50, 10, seed=7))
    assert not np.array_equal(one, arrivals.schedule("poisson", 50, 10, seed=8))


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64])
def test_workers_together_send_the_whole_schedule_once(workers: int) -> None:
    shares = [arrivals.share(1000, index, workers) for index in range(workers)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(1000))


def test_a_trace_keeps_its_pace_and_begins_again(tmp_path: Path) -> None:
    file = tmp_path / "trace.txt"
    file.write_text("# when they came\n12.5\n\n10.0\n10.5  # soon after\n")
    # Two gaps of 1.25 s on average, so the second round begins at 3.75 s.
    times = arrivals.schedule(f"trace:{file}", None, 8.0, seed=1)
    assert times.tolist() == [0, 0.5, 2.5, 3.75, 4.25, 6.25, 7.5]


def test_a_trace_is_stretched_to_a_rate(tmp_path: Path) -> None:
    file = tmp_path / "trace.txt"
    file.write_text("0\n1\n3\n")
    times = arrivals.schedule(f"trace:{file}", 100.0, 30.0, seed=1)
    assert len(times) == pytest.approx(3000, abs=2)
    assert times[2] / times[1] == pytest.approx(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\nsoon\n", 'line 2 is "soon"'),
        ("0\nnan\n", 'line 2 is "nan"'),
        ("1\n", "has 1 arrivals"),
        ("", "has 0 arrivals"),
        ("2\n2\n", "has one distinct time"),
    ],
)
def test_a_wrong_trace_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "trace.txt"
    file.write_text(text)
    with pytest.raises(SettingInvalid, match=message):
        arrivals.schedule(f"trace:{file}", None, 1, seed=1)


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="is not readable"):
        arrivals.schedule(f"trace:{tmp_path / 'no'}", None, 1, seed=1)


def test_too_many_arrivals_are_refused() -> None:
    with pytest.raises(SettingInvalid, match="arrivals is 100,000,000, expected"):
        arrivals.schedule("poisson", 1_000_000, 100, seed=1)


def test_without_a_rate_there_is_no_schedule() -> None:
    with pytest.raises(SettingInvalid, match="--rate is missing"):
        arrivals.schedule("poisson", None, 1, seed=1)
