from pathlib import Path

import pytest

from bench.cases import Way
from bench.checking import check
from bench.errors import BenchError
from bench.null_upstream import plan
from bench.processes import usable_cores
from bench.requesting import Digits, ours
from bench.servers import HOST, Ports, running
from ports import free_ports

MODEL = Path(__file__).parents[2] / "models/deep_mnist/1"
DIGIT = 7


def test_it_answers_both_protocols_as_the_servers_do(tmp_path: Path) -> None:
    ports = Ports(*free_ports(3))
    digits = Digits.of_model(MODEL)
    rest, rpc, wrong = (
        ours(way, HOST, port, digits, answered=digit)
        for way, port, digit in (
            (Way.POST, ports.rest, DIGIT),
            (Way.GRPC, ports.grpc, DIGIT),
            (Way.GRPC, ports.grpc, DIGIT + 1),
        )
    )
    started = plan(ports, DIGIT, 2, tmp_path)
    with running("null upstream", started, rest, usable_cores(), tmp_path / "log"):
        assert check(rest) > 500
        assert check(rpc) > 200
        with pytest.raises(BenchError, match="is 7, expected 8"):
            check(wrong)
