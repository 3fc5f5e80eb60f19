from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.generator import read_requests, write_requests
from bench.load import parse_h2load, parse_wrk

H2LOAD = """\
Stopped all clients for thread #0

finished in 2.00s, 2597.00 req/s, 1.06MB/s
requests: 5194 total, 5202 started, 5194 done, {succeeded} succeeded, 0 failed, 0 errored, 0 timeout
status codes: 5194 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 2.11MB (2214694) total, 15.80KB (16182) headers (space savings 96%), 1.49MB ({data}) data
"""
LOG = "1795483603241357\t200\t1820\n1795483603241804\t200\t1831\n1795483603241904\t200\t9000\n"


def test_h2load_output_is_read() -> None:
    said = H2LOAD.format(succeeded=5194, data=1_558_200)
    load = parse_h2load(said, LOG, answer_bytes=295)
    assert (load.requests, load.failures, load.seconds) == (5194, 0, 2.0)
    assert (load.p50_ms, load.p99_ms) == (1.831, 9.0)


def test_refusals_that_h2load_takes_for_successes_are_failures() -> None:
    """A refused call has the HTTP status 200, its gRPC status in trailers, and no message."""
    said = H2LOAD.format(succeeded=5194, data=1_558_200 - 300 * 7)
    assert parse_h2load(said, LOG, answer_bytes=295).failures == 7


def test_what_h2load_itself_calls_failed_is_a_failure() -> None:
    said = H2LOAD.format(succeeded=5190, data=1_558_200)
    assert parse_h2load(said, LOG, answer_bytes=295).failures == 4


def test_wrk_output_is_read() -> None:
    said = "Running 2s test\n  8 threads\nbench 4750 3 2.099062 11.241 50.517\n"
    load = parse_wrk(said)
    assert (load.requests, load.failures, load.seconds) == (4750, 3, 2.099062)
    assert (load.p50_ms, load.p99_ms) == (11.241, 50.517)


def test_output_of_another_form_is_an_error_that_shows_it() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        parse_wrk("unable to connect to localhost")
    with pytest.raises(BenchError, match="no idea"):
        parse_h2load("no idea", "", 295)


def test_requests_with_line_ends_survive_the_file(tmp_path: Path) -> None:
    bodies = (b'{"data":\n[1]}', b"", b"\0\n12\n")
    write_requests(tmp_path / "requests", bodies)
    assert read_requests(tmp_path / "requests") == bodies
