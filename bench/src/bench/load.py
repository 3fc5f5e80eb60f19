"""Load from one process on the client's core: wrk, h2load, or our own generator."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.asking import Asking, framed
from bench.cases import Way
from bench.errors import BenchError
from bench.generator import job, write_requests
from bench.processes import on_cores

WRK, H2LOAD, OWN = "wrk", "h2load", "own"
PACKAGES = {WRK: "wrk", H2LOAD: "nghttp2-client"}  # Debian's
PATIENCE_S = 20.0
GRPC_HEADERS = {"content-type": "application/grpc", "te": "trailers"}

_H2LOAD_REQUESTS = re.compile(r"requests: .*?(\d+) done, (\d+) succeeded")
_H2LOAD_DATA = re.compile(r"\((\d+)\) data")
_H2LOAD_LASTED = re.compile(r"finished in ([0-9.]+)(us|ms|s),")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Load:
    """What the client saw.

    Attributes:
        tool: What sent the requests.
        requests: Answered.
        failures: Not answered, or not with a prediction.
        seconds: How long it lasted.
        p50_ms: From request to answer.
        p99_ms: From request to answer.
        client_busy: Share of the time in which the client's threads computed; near 1 they are the
            limit.
        client_cpu_ms: CPU milliseconds that a request cost the client.
    """

    tool: str
    requests: int
    failures: int
    seconds: float
    p50_ms: float
    p99_ms: float
    client_busy: float = 0.0
    client_cpu_ms: float = 0.0


def tool_for(way: Way, own: bool) -> str:
    """What sends requests of this way here."""
    tool = H2LOAD if way is Way.GRPC else WRK
    return OWN if own or shutil.which(tool) is None else tool


def run(
    tool: str,
    asking: Asking,
    callers: int,
    seconds: int,
    answer_bytes: int,
    folder: Path,
    cores: Collection[int],
    threads: int = 1,
) -> Load:
    """Ask from `callers` connections at once for so many seconds.

    Args:
        tool: Of tool_for.
        asking: What.
        callers: Each with a connection of its own, sending when it has its answer.
        seconds: How long.
        answer_bytes: Of a right answer: h2load takes a refusal of gRPC for a success.
        folder: For files that are needed on the way.
        cores: Where the client runs.
        threads: Of the client, at most one a caller.

    Raises:
        BenchError: The tool fails.
    """
    requests = folder / "requests"
    if tool == WRK:
        write_requests(requests, asking.bodies)
        said, busy_s = _run(_wrk(asking, callers, seconds, requests, threads), seconds, cores)
        load = parse_wrk(said)
    elif tool == H2LOAD:
        requests.write_bytes(framed(asking.bodies[0]))
        log = folder / "h2load.log"
        log.unlink(missing_ok=True)
        command = _h2load(asking, callers, seconds, requests, log, threads)
        said, busy_s = _run(command, seconds, cores)
        load = parse_h2load(said, log.read_text() if log.exists() else "", answer_bytes)
    else:
        write_requests(requests, asking.bodies)
        text = json.dumps(job(asking, requests, callers, seconds, threads))
        command = [sys.executable, "-m", "bench.generator"]
        said, busy_s = _run(command, seconds, cores, text)
        load = Load(tool=OWN, **json.loads(said))
    if not load.requests:
        raise BenchError(f"{asking.url}: {load.tool} had no answer")
    return Load(
        **{
            **vars(load),
            "client_busy": busy_s / load.seconds / threads,
            "client_cpu_ms": busy_s * 1e3 / load.requests,
        }
    )


def parse_wrk(said: str) -> Load:
    """Read the line that wrk.lua writes.

    Raises:
        BenchError: It is not there.
    """
    for line in said.splitlines():
        if line.startswith("bench "):
            requests, failures, *times = line.split()[1:]
            return Load(WRK, int(requests), int(failures), *map(float, times))
    raise BenchError(f"wrk gave no result: {said.strip()[-200:]}")


def parse_h2load(said: str, log: str, answer_bytes: int) -> Load:
    """Read what h2load prints, and its log of every request.

    gRPC states a refusal in the trailers, at which h2load does not look; but a refusal carries no
    message, so the bytes that came say how many answers there were.

    Raises:
        BenchError: It has another form.
    """
    counted, data = _H2LOAD_REQUESTS.search(said), _H2LOAD_DATA.search(said)
    lasted = _H2LOAD_LASTED.search(said)
    if counted is None or data is None or lasted is None:
        raise BenchError(f"h2load gave no result: {said.strip()[-200:]}")
    done, succeeded = int(counted[1]), int(counted[2])
    answers = min(succeeded, round(int(data[1]) / len(framed(b"\0" * answer_bytes))))
    durations = [int(line.rsplit("\t", 1)[1]) for line in log.splitlines()]
    p50, p99 = (
        np.percentile(durations, (50, 99), method="inverted_cdf") / 1e3 if durations else (0.0, 0.0)
    )
    seconds = float(lasted[1]) * _UNITS[lasted[2]]
    return Load(H2LOAD, done, done - answers, seconds, float(p50), float(p99))


def _wrk(asking: Asking, callers: int, seconds: int, requests: Path, threads: int) -> list[str]:
    method = "GET" if asking.way is Way.JSONP else "POST"
    return [
        *("wrk", "--threads", str(threads), "--connections", str(callers)),
        *("--duration", f"{seconds}s"),
        *("--script", str(Path(__file__).with_name("wrk.lua"))),
        *_headers(asking.headers.items()),
        *(asking.url, "--", method, str(requests), asking.marker),
    ]


def _h2load(
    asking: Asking, callers: int, seconds: int, body: Path, log: Path, threads: int
) -> list[str]:
    return [
        *("h2load", f"--threads={threads}", f"--clients={callers}", "--max-concurrent-streams=1"),
        *(f"--duration={seconds}s", f"--data={body}", f"--log-file={log}"),
        *_headers((GRPC_HEADERS | dict(asking.headers)).items()),
        asking.url,
    ]


def _headers(headers: Collection[tuple[str, str]]) -> Sequence[str]:
    return [word for name, value in headers for word in ("--header", f"{name}: {value}")]


def _run(
    command: Sequence[str], seconds: float, cores: Collection[int], text: str = ""
) -> tuple[str, float]:
    """Run to its end.

    Returns:
        What it printed, and the CPU seconds that it took.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with on_cores(cores):
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    try:
        said, complained = process.communicate(text, timeout=seconds + PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} did not end after {seconds:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # it may have started others
            process.wait()
    if process.returncode != 0:
        raise BenchError(f"{command[0]} failed: {(complained or said).strip()[-300:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return said, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
