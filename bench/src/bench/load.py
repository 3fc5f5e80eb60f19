"""Load generation with wrk, h2load or the built-in generator."""

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

from bench.cases import Way
from bench.errors import BenchError
from bench.generator import job, write_requests
from bench.processes import on_cores
from bench.requesting import RequestSet, framed

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
    """The result of a load generator.

    Attributes:
        tool: The load generator.
        requests: Completed requests.
        failures: Requests without a response or prediction.
        seconds: Elapsed time.
        p50_ms: Request latency.
        p99_ms: Request latency.
        client_busy: Generator CPU utilization per thread; near 1 the generator is the limit.
        client_cpu_ms: CPU time of the load generator per request.
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
    """The load generator for a request variant on this machine."""
    tool = H2LOAD if way is Way.GRPC else WRK
    return OWN if own or shutil.which(tool) is None else tool


def run(
    tool: str,
    request_set: RequestSet,
    callers: int,
    seconds: int,
    answer_bytes: int,
    folder: Path,
    cores: Collection[int],
    threads: int = 1,
) -> Load:
    """Generate load from `callers` connections.

    Args:
        tool: The load generator, from tool_for.
        request_set: The requests.
        callers: Connections, each with one request in flight.
        seconds: The duration.
        answer_bytes: The size of a correct response; h2load counts gRPC errors as successes.
        folder: The folder for temporary files.
        cores: The cores of the load generator.
        threads: Threads of the load generator, at most one per connection.

    Raises:
        BenchError: The load generator failed.
    """
    requests = folder / "requests"
    if tool == WRK:
        write_requests(requests, request_set.bodies)
        output, busy_s = _run(
            _wrk(request_set, callers, seconds, requests, threads), seconds, cores
        )
        load = parse_wrk(output)
    elif tool == H2LOAD:
        requests.write_bytes(framed(request_set.bodies[0]))
        log = folder / "h2load.log"
        log.unlink(missing_ok=True)
        command = _h2load(request_set, callers, seconds, requests, log, threads)
        output, busy_s = _run(command, seconds, cores)
        load = parse_h2load(output, log.read_text() if log.exists() else "", answer_bytes)
    else:
        write_requests(requests, request_set.bodies)
        text = json.dumps(job(request_set, requests, callers, seconds, threads))
        command = [sys.executable, "-m", "bench.generator"]
        output, busy_s = _run(command, seconds, cores, text)
        load = Load(tool=OWN, **json.loads(output))
    if not load.requests:
        raise BenchError(f"{request_set.url}: {load.tool} received no response")
    return Load(
        **{
            **vars(load),
            "client_busy": busy_s / load.seconds / threads,
            "client_cpu_ms": busy_s * 1e3 / load.requests,
        }
    )


def parse_wrk(output: str) -> Load:
    """Parse the line that wrk.lua prints.

    Raises:
        BenchError: The line is missing.
    """
    for line in output.splitlines():
        if line.startswith("bench "):
            requests, failures, *times = line.split()[1:]
            return Load(WRK, int(requests), int(failures), *map(float, times))
    raise BenchError(f"the output of wrk has no result: {output.strip()[-200:]}")


def parse_h2load(output: str, log: str, answer_bytes: int) -> Load:
    """Parse the output of h2load and its request log.

    h2load ignores the gRPC status in the trailers. An error has no message, so the received bytes
    give the number of successes.

    Raises:
        BenchError: The output has an unexpected format.
    """
    counted, data = _H2LOAD_REQUESTS.search(output), _H2LOAD_DATA.search(output)
    lasted = _H2LOAD_LASTED.search(output)
    if counted is None or data is None or lasted is None:
        raise BenchError(f"the output of h2load has no result: {output.strip()[-200:]}")
    done, succeeded = int(counted[1]), int(counted[2])
    answers = min(succeeded, round(int(data[1]) / len(framed(b"\0" * answer_bytes))))
    durations = [int(line.rsplit("\t", 1)[1]) for line in log.splitlines()]
    p50, p99 = (
        np.percentile(durations, (50, 99), method="inverted_cdf") / 1e3 if durations else (0.0, 0.0)
    )
    seconds = float(lasted[1]) * _UNITS[lasted[2]]
    return Load(H2LOAD, done, done - answers, seconds, float(p50), float(p99))


def _wrk(
    request_set: RequestSet, callers: int, seconds: int, requests: Path, threads: int
) -> list[str]:
    method = "GET" if request_set.way is Way.JSONP else "POST"
    return [
        *("wrk", "--threads", str(threads), "--connections", str(callers)),
        *("--duration", f"{seconds}s"),
        *("--script", str(Path(__file__).with_name("wrk.lua"))),
        *_headers(request_set.headers.items()),
        *(request_set.url, "--", method, str(requests), request_set.marker),
    ]


def _h2load(
    request_set: RequestSet, callers: int, seconds: int, body: Path, log: Path, threads: int
) -> list[str]:
    return [
        *("h2load", f"--threads={threads}", f"--clients={callers}", "--max-concurrent-streams=1"),
        *(f"--duration={seconds}s", f"--data={body}", f"--log-file={log}"),
        *_headers((GRPC_HEADERS | dict(request_set.headers)).items()),
        request_set.url,
    ]


def _headers(headers: Collection[tuple[str, str]]) -> Sequence[str]:
    return [word for name, value in headers for word in ("--header", f"{name}: {value}")]


def _run(
    command: Sequence[str], seconds: float, cores: Collection[int], text: str = ""
) -> tuple[str, float]:
    """Run a command.

    Returns:
        Its output and CPU seconds.
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
        output, errors = process.communicate(text, timeout=seconds + PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} did not exit within {seconds + PATIENCE_S:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with its children
            process.wait()
    if process.returncode != 0:
        raise BenchError(f"{command[0]} failed: {(errors or output).strip()[-300:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return output, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
