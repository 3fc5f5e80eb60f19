"""Arrival schedules of the open loop: send times as a pure function of the seed.

Times are ascending seconds from the start. Each of n load generators takes every n-th arrival, so
the requests and their times do not depend on n.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.errors import SettingInvalid

POISSON = "poisson"
CONSTANT = "constant"
TRACE = "trace:"
MAX_ARRIVALS = 20_000_000

Times = NDArray[np.float64]


def schedule(arrivals: str, rate: float | None, duration_s: float, seed: int) -> Times:
    """The arrival times before `duration_s`.

    Args:
        arrivals: "poisson" (exponential gaps), "constant", or "trace:FILE" (one time in seconds
            per line, in any order; the trace starts at its first arrival and repeats).
        rate: Arrivals per second; None replays a trace at its own rate.
        duration_s: Seconds, > 0.
        seed: The seed of "poisson".

    Returns:
        Shape (n,), ascending seconds in [0, duration_s).

    Raises:
        SettingInvalid: The rate is missing, there are too many arrivals, or the trace is invalid.
    """
    if arrivals.startswith(TRACE):
        return _repeated(read_trace(Path(arrivals.removeprefix(TRACE))), rate, duration_s)
    if rate is None:
        raise SettingInvalid(f"--rate is missing, expected a number with --arrivals {arrivals}")
    _limit(rate * duration_s)
    if arrivals == CONSTANT:
        times = np.arange(math.ceil(rate * duration_s)) / rate
        return times[times < duration_s]
    return _poisson(rate, duration_s, np.random.default_rng(seed))


def share(count: int, index: int, workers: int) -> NDArray[np.int64]:
    """The indices of the arrivals that load generator `index` of `workers` sends."""
    return np.arange(index, count, workers)


def read_trace(path: Path) -> Times:
    """The arrival times of a file, ascending, the first at 0.

    Raises:
        SettingInvalid: The file is not readable or a line is not a number.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"--arrivals {TRACE}{path} is not readable: {error}") from None
    times = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds):
            raise SettingInvalid(
                f'--arrivals {TRACE}{path} line {number} is "{text[:32]}", '
                "expected a number of seconds"
            )
        times.append(seconds)
    if len(times) < 2:
        raise SettingInvalid(
            f"--arrivals {TRACE}{path} has {len(times)} arrivals, expected at least 2"
        )
    found = np.sort(np.array(times))
    if found[-1] == found[0]:
        raise SettingInvalid(f"--arrivals {TRACE}{path} has one distinct time, expected at least 2")
    result: Times = found - found[0]
    return result


def _poisson(rate: float, duration_s: float, rng: np.random.Generator) -> Times:
    parts = []
    now = 0.0
    while now < duration_s:
        gaps = rng.exponential(1 / rate, max(16, math.ceil((duration_s - now) * rate * 1.05)))
        times = now + np.cumsum(gaps)
        parts.append(times)
        now = float(times[-1])
    every = np.concatenate(parts)
    return every[every < duration_s]


def _repeated(trace: Times, rate: float | None, duration_s: float) -> Times:
    # The trace repeats one mean gap after its last arrival.
    period = float(trace[-1]) * len(trace) / (len(trace) - 1)
    if rate is not None:
        factor = len(trace) / period / rate
        trace, period = trace * factor, period * factor
    _limit(duration_s / period * len(trace))
    rounds = math.ceil(duration_s / period)
    every = (trace[np.newaxis, :] + period * np.arange(rounds)[:, np.newaxis]).ravel()
    return every[every < duration_s]


def _limit(count: float) -> None:
    if count > MAX_ARRIVALS:
        raise SettingInvalid(
            f"the number of arrivals is {count:,.0f}, expected at most {MAX_ARRIVALS:,}; reduce "
            "--rate or --duration"
        )
